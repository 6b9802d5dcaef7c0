"""One VQGAN+CLIP run as a state that its driver steps, alone or among others: latent, Adam's moments, step count.

Source: Crowson et al., "VQGAN-CLIP" (2022), section 3: descend CLIP's distance between views of the decoded picture
and the prompts, over the latent, through the codebook's straight-through gradient. Ours besides: the latent is a sum of
grids of several sizes, so that shapes settle before details; picture and latent are pulled to be smooth at first.
`snapshot` and `restore` carry everything: randomness is a function of (seed, step). The steps themselves, of one
state or many, are in worker.models.vqgan_clip.rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from worker.models.clip.clip import Clip
from worker.models.errors import RangeError, ShapeError, check_shape
from worker.models.noise import key_of
from worker.models.vqgan.vqgan import VQGAN
from worker.models.vqgan_clip.guidance import CutSettings, decayed, random_codes, soft_noise
from worker.models.vqgan_clip.latent import INIT, Schedule, Targets, latent_of, picture_of


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
        low, high = (bound.view(1, -1, 1, 1).float() for bound in vqgan.codebook_range())
        self.bounds = low, high
        self.first = first.float().contiguous()  # the layout a snapshot gives back, so that sums go the same way
        height, width = first.shape[2:]
        self.grids = [
            torch.zeros(1, first.shape[1], max(1, height // level), max(1, width // level), device=first.device)
            for level in recipe.levels
        ]
        self.moments = [(torch.zeros_like(grid), torch.zeros_like(grid)) for grid in self.grids]
        self.mean_latent = self.first.clone()
        self.autocast: torch.dtype | None = None
        self.targets = [self._stack(perceptor) for perceptor in perceptors]

    def _stack(self, perceptor: Perceptor) -> Targets:
        device, width = self.first.device, perceptor.clip.width
        for prompt in perceptor.prompts:
            check_shape("prompt embedding", prompt.embedding, (width,))
        embeddings = torch.stack([p.embedding for p in perceptor.prompts]).to(device)
        weights = torch.tensor([p.weight for p in perceptor.prompts], device=device)
        stops = torch.tensor([p.stop for p in perceptor.prompts], device=device)
        return embeddings[None], weights[None], stops[None]

    @property
    def done(self) -> bool:
        """True once all steps are taken."""
        return self.step_count >= self.steps

    @property
    def share_key(self) -> tuple[Any, ...]:
        """States with equal ones can share their steps."""
        recipe = self.recipe
        clips = tuple(perceptor.clip for perceptor in self.perceptors)
        shapes = (recipe.cuts, recipe.levels, recipe.quantize, recipe.betas, recipe.average)
        return (self.vqgan, clips, self.first.shape, self.autocast, *shapes)

    def schedule(self) -> Schedule:
        """What the next step has of its own."""
        recipe, (beta1, beta2), step = self.recipe, self.recipe.betas, self.step_count
        progress = torch.tensor(step / max(1, self.steps))
        share = recipe.final_rate + (1 - recipe.final_rate) * 0.5 * (1 + (progress * torch.pi).cos())
        return Schedule(
            rate=recipe.learning_rate * float(share) / (1 - beta1 ** (step + 1)),
            bias=1 - beta2 ** (step + 1),
            smooth=recipe.smooth_pixels * (recipe.smooth_floor + decayed(1 - recipe.smooth_floor, step, self.steps)),
            near=decayed(recipe.near_start, step, self.steps),
            background=recipe.background,
        )

    def latent(self, grids: Sequence[Tensor]) -> Tensor:
        """The latent (1, C, h, w) that the grids add up to, kept in the codebook's range."""
        return latent_of(self.first, grids, self.bounds)

    @torch.inference_mode()
    def image(self) -> Tensor:
        """The picture so far (1, 3, H, W), float32 in [0, 1], of the averaged latent."""
        device = self.first.device.type
        with torch.autocast(device, self.autocast, enabled=self.autocast is not None):
            return picture_of(self.vqgan, self.mean_latent, self.recipe.quantize).clone()

    def tensors(self) -> dict[str, Tensor]:
        """What steps read and change, by name, one row (1, ...) each."""
        out = {"first": self.first, "mean": self.mean_latent}
        for index, (grid, (first, second)) in enumerate(zip(self.grids, self.moments, strict=True)):
            out |= {f"grid.{index}": grid, f"moment1.{index}": first, f"moment2.{index}": second}
        return out

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Be what `tensors` gave, at this step count or another."""
        self.first, self.mean_latent = tensors["first"], tensors["mean"]
        self.grids = [tensors[f"grid.{index}"] for index in range(len(self.grids))]
        self.moments = [(tensors[f"moment1.{i}"], tensors[f"moment2.{i}"]) for i in range(len(self.grids))]

    def snapshot(self) -> dict[str, Tensor]:
        """Everything that changes, as tensors on the CPU: enough to go on elsewhere to the same picture."""
        out = {"step": torch.tensor(self.step_count), **self.tensors()}
        return {name: tensor.detach().cpu().clone() for name, tensor in out.items()}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Go on from a snapshot of a run with the same models, recipe, seed and size; else ShapeError."""
        own = self.snapshot()
        if set(own) != set(saved) or any(own[name].shape != saved[name].shape for name in own):
            raise ShapeError("the snapshot is of a run with another recipe or size")
        device = self.first.device
        moved = {name: tensor.to(device).clone() for name, tensor in saved.items()}
        self.step_count = int(moved["step"])
        self.take(moved)


@torch.no_grad()
def first_latent(vqgan: VQGAN, seed: int, height: int, width: int, init: str | Tensor = "noise") -> Tensor:
    """The latent (1, C, h, w) a run starts from.

    init: "noise" encodes a soft low-frequency picture, "codes" draws codes at random, "white" encodes white; a tensor
    (1, 3, H, W) in [0, 1] of exactly this size is encoded itself. Sides in pixels, multiples of the VQGAN's factor.
    """
    weight = vqgan.quantize.embedding.weight
    key = key_of(seed, INIT, device=weight.device)
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
