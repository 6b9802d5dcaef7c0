"""Training CLIP: every step contrasts a batch of pictures with one caption of every thing.

Source: Radford et al. (2021), section 2.3, with two changes. The captions of all things, one each, stand against the
batch, so no caption appears twice and pictures of one thing share their target; captions to pictures, all pictures of
the thing count as right. Part of every batch is moved against the loss within a small ball first (Madry et al.,
"Towards Deep Learning Models Resistant to Adversarial Attacks", 2018): such a model's gradients show shapes
(Santurkar et al., "Image Synthesis with a Single (Robust) Classifier", 2019), which is what steering needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worker.checkpoints.loading import save_model
from worker.models.clip.clip import Clip
from worker.models.text import CaptionTokenizer
from worker.training.data.augment import Augmentation, augment
from worker.training.data.captions import caption_table, has_colour, write_captions
from worker.training.data.pictures import Pictures
from worker.training.evaluation.measure import clip_figures
from worker.training.loop import Average, Plan, Run, adam, decayed_groups, mixed, set_rate

MAX_LOG_SCALE = math.log(100.0)


@dataclass(frozen=True, slots=True)
class ClipRecipe:
    """The steering model's; the judge has another tower, seed and augmentation (`JUDGE`)."""

    tower: str = "dreamqueue_resnet10p"
    embed_dim: int = 128
    text_width: int = 128
    text_layers: int = 3
    context_length: int = 32
    batch: int = 1024
    rate: float = 2e-3
    weight_decay: float = 0.1
    average: float = 0.999
    robust: float = 0.75  # L2 radius of the adversarial half, pixels in [0, 1]; 0 for none
    robust_from: float = 0.15  # share of the run before it begins; it grows over the next fifth
    captions: int = 48  # per thing, one drawn each step
    rivals: int = 10_000  # captions of things outside the batch that stand against it; fewer is faster on a CPU
    seed: int = 1
    augmentation: Augmentation = field(default_factory=Augmentation)


JUDGE = ClipRecipe(
    tower="dreamqueue_resnet10ps",
    embed_dim=96,
    text_width=96,
    text_layers=2,
    batch=768,
    robust=0.0,
    seed=77,
    augmentation=Augmentation(turn=0.4, zoom=(0.6, 1.2), hue=0.25, grey=0.2, outline=0.45, erase=0.35, crop=0.2),
)


def config_of(recipe: ClipRecipe, vocab: int) -> dict[str, Any]:
    """open_clip's configuration file of a recipe."""
    vision = {"image_size": 64, "timm_model_name": recipe.tower, "timm_pool": "avg", "timm_proj": "linear"}
    text = {
        "context_length": recipe.context_length,
        "vocab_size": vocab,
        "width": recipe.text_width,
        "heads": max(1, recipe.text_width // 32),
        "layers": recipe.text_layers,
    }
    model = {"embed_dim": recipe.embed_dim, "vision_cfg": vision, "text_cfg": text}
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    return {"model_cfg": model, "preprocess_cfg": preprocess}


class ClipTrainer:
    """Model, data on the device, optimiser."""

    def __init__(
        self, recipe: ClipRecipe, pictures: Pictures, tokenizer: CaptionTokenizer, device: torch.device
    ) -> None:
        self.recipe, self.device = recipe, device
        torch.manual_seed(recipe.seed)  # initial weights; a stage is a process of its own
        self.generator = torch.Generator(device).manual_seed(recipe.seed)
        config = config_of(recipe, tokenizer.size)
        self.clip = Clip(config, tokenizer).to(device).to(memory_format=torch.channels_last)
        self.average = Average(self.clip, Clip(config, tokenizer).to(device), recipe.average)
        self.optimizer = adam(decayed_groups(self.clip, recipe.weight_decay), recipe.rate, (0.9, 0.98), device)
        self.images = pictures.images.to(device)
        self._captions(pictures, tokenizer)

    def _captions(self, pictures: Pictures, tokenizer: CaptionTokenizer) -> None:
        rng = np.random.default_rng(self.recipe.seed)
        first = {row.code: row for row in reversed(pictures.rows)}
        codes = sorted(first)
        texts = [write_captions(first[code], self.recipe.captions, rng, None, False) for code in codes]
        for code, group in zip(codes, texts, strict=True):
            group[0] = first[code].name
        table = caption_table(texts, tokenizer, self.recipe.context_length, framed=True)
        self.table = table.to(self.device)  # (things, K, length)
        place = {code: index for index, code in enumerate(codes)}
        self.things = torch.tensor([place[row.code] for row in pictures.rows], device=self.device)
        self.coloured = torch.tensor([has_colour(row.name) for row in pictures.rows], device=self.device)

    def _draw(self, high: int, count: int) -> Tensor:
        return torch.randint(0, high, (count,), device=self.device, generator=self.generator)

    def loss(self, images: Tensor, texts: Tensor, things: Tensor) -> Tensor:
        """Scalar: pictures (B, ...) of `things` (B,) against one caption vector per thing (T, D)."""
        scale = self.clip.network.logit_scale.exp()
        vectors = self.clip.encode_image(images)
        with torch.autocast(self.device.type, enabled=False):  # bf16 is too coarse for logits up to 100
            logits = scale * vectors @ texts.t()  # (B, T)
        to_text = F.cross_entropy(logits, things)
        present = F.one_hot(things, texts.shape[0]).to(logits.dtype)  # (B, T)
        count = present.sum(0)  # pictures per thing in this batch
        to_image = (logits.log_softmax(0) * present).sum(0)[count > 0] / count[count > 0]
        return 0.5 * (to_text - to_image.mean())

    def attack(self, images: Tensor, texts: Tensor, things: Tensor, radius: float) -> Tensor:
        """Pictures moved within an L2 ball against the loss, one step from a random start."""
        start = torch.randn(images.shape, device=self.device, generator=self.generator)
        start = start * (0.5 * radius / start.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
        moved = (images + start).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(moved, texts.detach(), things), moved)
        step = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1).clamp_min(1e-12)
        change = start + step * radius
        size = change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return (images + change * (radius / size).clamp_max(1.0)).clamp(0, 1).detach()

    def step(self, rate: float, progress: float) -> Tensor:
        """One update; the loss."""
        recipe = self.recipe
        picks = self._draw(len(self.images), recipe.batch)
        things = self.things[picks]
        images = self.images[picks].float() / 255.0
        with torch.no_grad():
            images = augment(images, self.coloured[picks], recipe.augmentation, self.generator)
            images = images.contiguous(memory_format=torch.channels_last)
        ids, things = self._captions_against(things)
        with mixed(self.device):
            texts = self.clip.encode_ids(ids)
            ramp = min(1.0, max(0.0, (progress - recipe.robust_from) / 0.2))
            if recipe.robust and ramp:
                half = recipe.batch // 2
                hard = self.attack(images[:half], texts, things[:half], recipe.robust * ramp)
                images = torch.cat([hard, images[half:]])
            loss = self.loss(images, texts, things)
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.clip.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.clip.network.logit_scale.clamp_(0, MAX_LOG_SCALE)
        self.average.update()
        return loss.detach()

    def _captions_against(self, things: Tensor) -> tuple[Tensor, Tensor]:
        """One caption (T, length) of every thing in the batch and of the rivals, and where the batch's things lie."""
        order = torch.randperm(len(self.table), device=self.device, generator=self.generator)
        own = torch.zeros(len(self.table), dtype=torch.bool, device=self.device)
        own[things] = True
        chosen = torch.cat([own.nonzero().flatten(), order[~own[order]][: self.recipe.rivals]])
        place = torch.empty(len(self.table), dtype=torch.long, device=self.device)
        place[chosen] = torch.arange(len(chosen), device=self.device)
        which = self._draw(self.table.shape[1], len(chosen))
        return self.table[chosen, which].long(), place[things]

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "clip": self.clip.state_dict(),
            "average": self.average.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.clip.load_state_dict(state["clip"])
        self.average.target.load_state_dict(state["average"])
        self.average.count = 10**6
        self.optimizer.load_state_dict(state["optimizer"])


def train_clip(plan: Plan, tokenizer: CaptionTokenizer, recipe: ClipRecipe) -> Clip:
    """The whole stage; the averaged model is saved in `plan.out` every few minutes and at the end."""
    trainer = ClipTrainer(recipe, Pictures.training(plan.data), tokenizer, plan.device)
    held_out = Pictures.held_out(plan.data)  # measured, never trained on
    run = Run(plan.out, plan.budget)
    state = run.resume() if plan.resume else None
    if state:
        trainer.load(state)
    model = trainer.average.target
    for step in run.steps():
        loss = trainer.step(run.rate(recipe.rate), run.progress)
        if step % 100 == 0:
            run.log(loss=float(loss), scale=trainer.clip.logit_scale)
        if run.due():
            run.save(trainer.state())
            save_model(model, plan.out)
            run.log(**clip_figures(model, held_out))
    save_model(model, plan.out)
    run.save(trainer.state())
    run.log(**clip_figures(model, held_out))
    return model
