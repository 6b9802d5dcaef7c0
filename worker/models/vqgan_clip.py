"""One VQGAN+CLIP run as a state that its driver steps: latent, Adam's moments, average, step count.

Source: Crowson et al., "VQGAN-CLIP" (2022), section 3: descend CLIP's distance between views of the decoded picture
and the prompts, over the latent, through the codebook's straight-through gradient. Ours besides: the latent is a sum of
grids of several sizes, so that shapes settle before details; picture and latent are pulled to be smooth at first.
`snapshot` and `restore` carry everything: randomness is a function of (seed, step).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.models.clip import Clip
from worker.models.errors import RangeError, ShapeError, check_shape
from worker.models.guidance import (
    CutSettings,
    add_noise,
    clamp_with_gradient,
    cut,
    cut_boxes,
    decayed,
    prompt_loss,
    random_codes,
    soft_noise,
    total_variation,
)
from worker.models.noise import key_of
from worker.models.vqgan import VQGAN

_INIT, _CUTS, _GRAIN = 1, 2, 3  # streams of the seed


@dataclass(frozen=True, slots=True)
class Prompt:
    """One thing to be like, or with a negative weight unlike."""

    embedding: Tensor  # (D,), unit length, of the perceptor it is given to
    weight: float = 1.0
    stop: float = float("-inf")  # signed distance under which it stops pulling


@dataclass(frozen=True, slots=True)
class Perceptor:
    """A CLIP model and what it looks for."""

    clip: Clip
    prompts: Sequence[Prompt]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a run descends; the defaults suit the embedded models."""

    cuts: CutSettings = field(default_factory=CutSettings)
    learning_rate: float = 0.1  # of Adam, in units of the latent
    final_rate: float = 0.1  # share of the learning rate left at the end (cosine)
    levels: tuple[int, ...] = (1, 2, 4)  # the latent is a sum of grids this many times coarser
    quantize: bool = True  # decode the nearest codes (straight-through), not the latent itself
    smooth_pixels: float = 0.8  # weight of the picture's total variation at the start, falling to its share below
    smooth_floor: float = 0.2  # share of `smooth_pixels` that stays
    near_start: float = 0.0  # weight of the squared distance from the first latent, falling to 0
    background: float = 3.0  # weight of the border's squared distance from white, which the embedded models know
    average: float = 0.9  # decay of the latent's running average, which `image` shows; 0 shows the latent itself
    betas: tuple[float, float] = (0.9, 0.99)  # Adam's


class VqganClipState:
    """Built by `start`; not safe for two threads at once."""

    def __init__(
        self, vqgan: VQGAN, perceptors: Sequence[Perceptor], recipe: Recipe, seed: int, steps: int, first: Tensor
    ) -> None:
        if not perceptors or not any(perceptor.prompts for perceptor in perceptors):
            raise RangeError("no prompt to steer by")
        self.vqgan, self.perceptors, self.recipe = vqgan, perceptors, recipe
        self.seed, self.steps, self.step_count = seed, steps, 0
        self.low, self.high = (bound.view(1, -1, 1, 1).float() for bound in vqgan.codebook_range())
        self.first = first.float().contiguous()  # the layout a snapshot gives back, so that sums go the same way
        height, width = first.shape[2:]
        self.grids = [
            torch.zeros(1, first.shape[1], max(1, height // level), max(1, width // level), device=first.device)
            for level in recipe.levels
        ]
        self.moments = [(torch.zeros_like(grid), torch.zeros_like(grid)) for grid in self.grids]
        self.mean_latent = self.first.clone()
        self.autocast: torch.dtype | None = None
        self._targets = [self._stack(perceptor) for perceptor in perceptors]

    def _stack(self, perceptor: Perceptor) -> tuple[Tensor, Tensor, Tensor]:
        device, width = self.first.device, perceptor.clip.width
        for prompt in perceptor.prompts:
            check_shape("prompt embedding", prompt.embedding, (width,))
        embeddings = torch.stack([p.embedding for p in perceptor.prompts]).to(device)
        weights = torch.tensor([p.weight for p in perceptor.prompts], device=device)
        stops = torch.tensor([p.stop for p in perceptor.prompts], device=device)
        return embeddings, weights, stops

    @property
    def done(self) -> bool:
        """True once all steps are taken."""
        return self.step_count >= self.steps

    def latent(self, grids: Sequence[Tensor]) -> Tensor:
        """The latent (1, C, h, w) that the grids add up to, kept in the codebook's range."""
        size = self.first.shape[2:]
        total = self.first
        for grid in grids:
            total = total + F.interpolate(grid, size, mode="bilinear", align_corners=False)
        return clamp_with_gradient(total, self.low, self.high)

    def _picture(self, latent: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1], with gradient."""
        latent = latent.to(self.vqgan.quantize.embedding.weight.dtype)
        codes = self.vqgan.quantize(latent)[0] if self.recipe.quantize else latent
        return clamp_with_gradient(self.vqgan.decode(codes).float().add(1).div(2), 0.0, 1.0)

    def _loss(self, latent: Tensor) -> Tensor:
        recipe, step = self.recipe, self.step_count
        picture = self._picture(latent)
        boxes = cut_boxes(self._key(_CUTS), recipe.cuts, *picture.shape[2:])
        loss = picture.new_zeros(())
        for perceptor, target in zip(self.perceptors, self._targets, strict=True):
            views = cut(picture, boxes, perceptor.clip.image_size_px, recipe.cuts.fill)
            views = add_noise(views, self._key(_GRAIN), recipe.cuts)
            loss = loss + prompt_loss(perceptor.clip.encode_image(views), *target)
        smooth = recipe.smooth_pixels * (recipe.smooth_floor + decayed(1 - recipe.smooth_floor, step, self.steps))
        loss = loss + smooth * total_variation(picture)
        near = decayed(recipe.near_start, step, self.steps)
        if near:
            loss = loss + near * F.mse_loss(latent, self.first)
        if recipe.background:
            loss = loss + recipe.background * border_distance(picture)
        return loss

    def _key(self, stream: int) -> Tensor:
        return key_of(self.seed, stream, self.step_count, device=self.first.device)

    def step(self) -> float:
        """Take one step; the loss before it."""
        grids = [grid.detach().requires_grad_() for grid in self.grids]
        device = self.first.device.type
        with torch.enable_grad(), torch.autocast(device, self.autocast, enabled=self.autocast is not None):
            loss = self._loss(self.latent(grids))
        gradients = torch.autograd.grad(loss, grids)
        self._descend(gradients)
        self.step_count += 1
        return float(loss.detach())

    @torch.no_grad()
    def _descend(self, gradients: Sequence[Tensor]) -> None:
        """Adam (Kingma and Ba, 2015) with a cosine schedule, then the running average of the latent."""
        (beta1, beta2), count = self.recipe.betas, self.step_count + 1
        progress = torch.tensor(self.step_count / max(1, self.steps))
        share = self.recipe.final_rate + (1 - self.recipe.final_rate) * 0.5 * (1 + (progress * torch.pi).cos())
        rate = self.recipe.learning_rate * float(share)
        for grid, (first, second), gradient in zip(self.grids, self.moments, gradients, strict=True):
            first.lerp_(gradient, 1 - beta1)
            second.lerp_(gradient.square(), 1 - beta2)
            scale = (second / (1 - beta2**count)).sqrt_().add_(1e-8)
            grid.sub_(rate / (1 - beta1**count) * first / scale)
        self.mean_latent.lerp_(self.latent(self.grids), 1 - self.recipe.average)

    @torch.inference_mode()
    def image(self) -> Tensor:
        """The picture so far (1, 3, H, W), float32 in [0, 1], of the averaged latent."""
        device = self.first.device.type
        with torch.autocast(device, self.autocast, enabled=self.autocast is not None):
            return self._picture(self.mean_latent).clone()

    def snapshot(self) -> dict[str, Tensor]:
        """Everything that changes, as tensors on the CPU: enough to go on elsewhere to the same picture."""
        out = {"step": torch.tensor(self.step_count), "first": self.first, "mean": self.mean_latent}
        for index, (grid, (first, second)) in enumerate(zip(self.grids, self.moments, strict=True)):
            out |= {f"grid.{index}": grid, f"moment1.{index}": first, f"moment2.{index}": second}
        return {name: tensor.detach().cpu().clone() for name, tensor in out.items()}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Go on from a snapshot of a run with the same models, recipe, seed and size; else ShapeError."""
        own = self.snapshot()
        if set(own) != set(saved) or any(own[name].shape != saved[name].shape for name in own):
            raise ShapeError("the snapshot is of a run with another recipe or size")
        device = self.first.device
        moved = {name: tensor.to(device).clone() for name, tensor in saved.items()}
        self.step_count = int(moved["step"])
        self.first, self.mean_latent = moved["first"], moved["mean"]
        self.grids = [moved[f"grid.{index}"] for index in range(len(self.grids))]
        self.moments = [(moved[f"moment1.{i}"], moved[f"moment2.{i}"]) for i in range(len(self.grids))]


def border_distance(picture: Tensor) -> Tensor:
    """Mean squared distance from white of the outermost sixteenth of a picture (1, 3, H, W) in [0, 1]."""
    edge = max(1, picture.shape[-1] // 16)
    strips = (picture[..., :edge, :], picture[..., -edge:, :], picture[..., :, :edge], picture[..., :, -edge:])
    return torch.stack([(1 - strip).square().mean() for strip in strips]).mean()


@torch.no_grad()
def first_latent(vqgan: VQGAN, seed: int, height: int, width: int, init: str | Tensor = "noise") -> Tensor:
    """The latent (1, C, h, w) a run starts from.

    init: "noise" encodes a soft low-frequency picture, "codes" draws codes at random, "white" encodes white; a tensor
    (1, 3, H, W) in [0, 1] of exactly this size is encoded itself. Sides in pixels, multiples of the VQGAN's factor.
    """
    weight = vqgan.quantize.embedding.weight
    key = key_of(seed, _INIT, device=weight.device)
    factor = vqgan.config.factor
    if isinstance(init, Tensor):
        check_shape("init image", init, (1, 3, height, width))
        picture = init
    elif init == "codes":
        return random_codes(vqgan, key, height // factor, width // factor).float()
    elif init == "white":
        picture = torch.ones(1, 3, height, width)
    elif init == "noise":
        picture = soft_noise(key, height, width)
    else:
        raise RangeError(f"init {init!r} is none of noise, codes, white, or a picture")
    return vqgan.encode(picture.to(weight.device, weight.dtype) * 2 - 1).float()


def start(
    vqgan: VQGAN,
    perceptors: Sequence[Perceptor],
    *,
    seed: int,
    steps: int,
    size: tuple[int, int] = (64, 64),
    recipe: Recipe | None = None,
    init: str | Tensor = "noise",
    autocast: torch.dtype | None = None,
) -> VqganClipState:
    """A run at step 0. size: (height, width) in pixels. autocast: the dtype of the heavy operations, None for full."""
    first = first_latent(vqgan, seed, *size, init)
    state = VqganClipState(vqgan, perceptors, recipe or Recipe(), seed, steps, first)
    state.autocast = autocast
    return state
