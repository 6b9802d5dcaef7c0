"""Training the DALL-E transformer on the VQGAN's codes of the training pictures.

Source: Ramesh et al. (2021), section 2.2; caption dropout for guidance from Ho and Salimans (2022); random codes
among the inputs as in taming's `pkeep`. Against learning nine thousand pictures by heart: every picture stands in
several shifted, resized and recoloured versions, dropout, weight decay, an average of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worker.checkpoints.loading import save_model
from worker.models.dalle.dalle import PAD, Dalle, DalleConfig
from worker.models.text import CaptionTokenizer
from worker.models.vqgan.vqgan import VQGAN
from worker.training.data.augment import turn_hue
from worker.training.data.captions import caption_table, colour_word, has_colour, is_sentence, write_captions
from worker.training.data.pictures import Pictures, Row
from worker.training.loop import Average, Plan, Run, adam, decayed_groups, mixed, set_rate

HUES = (math.pi / 3, 2 * math.pi / 3, math.pi, -2 * math.pi / 3, -math.pi / 3)  # turns of recoloured versions


EMOJI = DalleConfig(grid=8, text_length=12, width=192, layers=4, heads=4, text_width=96, guidance=1.5)


@dataclass(frozen=True, slots=True)
class DalleRecipe:
    """The embedded model's."""

    config: DalleConfig = field(default_factory=lambda: EMOJI)
    batch: int = 512
    rate: float = 1.5e-3
    weight_decay: float = 0.05
    average: float = 0.9995
    no_caption: float = 0.1  # share of captions dropped
    wrong_codes: float = 0.04  # share of input codes replaced by random ones
    versions: int = 12  # of every picture, the first one unchanged
    captions: int = 24  # per picture
    recoloured: float = 0.12  # share of a batch from the recoloured pictures
    designs: tuple[str, ...] = ()  # train on these only; empty: all. Few designs are learnt sooner
    groups: tuple[int, ...] = ()  # and on these of emojibase's groups only (3 nature, 4 food, ...); empty: all
    seed: int = 5


class CodeBank:
    """Codes (N, K, grid * grid) int16 of K versions of N pictures, and captions (N, C, T) int16, on the device."""

    def __init__(self, codes: Tensor, captions: Tensor) -> None:
        self.codes, self.captions = codes, captions

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Caption ids (count, T) and codes (count, grid * grid), int64, at random."""
        pictures, versions, _ = self.codes.shape

        def pick(high: int) -> Tensor:
            return torch.randint(0, high, (count,), device=self.codes.device, generator=generator)

        rows = pick(pictures)
        return self.captions[rows, pick(self.captions.shape[1])].long(), self.codes[rows, pick(versions)].long()


@torch.no_grad()
def encode_all(vqgan: VQGAN, images: Tensor) -> Tensor:
    """Codes (N, h * w) int16 of pictures (N, 3, H, W) in [0, 1]."""
    parts = [
        vqgan.quantize.nearest(vqgan.encode(part * 2 - 1)).flatten(1).to(torch.int16) for part in images.split(512)
    ]
    return torch.cat(parts)


@torch.no_grad()
def versions_of(images: Tensor, count: int, generator: torch.Generator) -> list[Tensor]:
    """`count` batches like `images` (N, 3, H, W) in [0, 1]: unchanged, then shifted and resized a little on white."""
    out = [images]
    size, device = len(images), images.device
    for _ in range(count - 1):
        zoom = torch.rand(size, device=device, generator=generator) * 0.3 + 0.95  # above 1 is smaller
        move = (torch.rand(size, 2, device=device, generator=generator) - 0.5) * 0.12
        zero = torch.zeros_like(zoom)
        top, bottom = torch.stack([zoom, zero, move[:, 0]], -1), torch.stack([zero, zoom, move[:, 1]], -1)
        grid = F.affine_grid(torch.stack([top, bottom], 1), list(images.shape), align_corners=False)
        out.append((F.grid_sample(images - 1, grid, align_corners=False) + 1).clamp(0, 1))
    return out


def bank_of(
    images: Tensor,
    rows: Sequence[Row],
    colours: Sequence[str | None],
    vqgan: VQGAN,
    tokenizer: CaptionTokenizer,
    recipe: DalleRecipe,
    generator: torch.Generator,
) -> CodeBank:
    """Codes and captions of one set of pictures (N, 3, H, W) in [0, 1] on the device."""
    codes = [encode_all(vqgan, version) for version in versions_of(images, recipe.versions, generator)]
    rng = np.random.default_rng(recipe.seed)
    texts = [write_captions(row, recipe.captions, rng, colour, True) for row, colour in zip(rows, colours, strict=True)]
    table = caption_table(texts, tokenizer, recipe.config.text_length, framed=False)
    return CodeBank(torch.stack(codes, 1), table.to(images.device))


def recoloured(images: Tensor, rows: Sequence[Row], count: int, seed: int) -> tuple[Tensor, list[list[str]]]:
    """Pictures of one colour in other colours and `count` captions each that name the new one: "a blue banana"."""
    kept: list[Tensor] = []
    captions: list[list[str]] = []
    rng = np.random.default_rng(seed)
    for index, row in enumerate(rows):
        if has_colour(row.name) or is_sentence(row.name) or row.group == 0:  # faces stay as they are
            continue
        angle = torch.tensor([HUES[index % len(HUES)]], device=images.device)
        turned = turn_hue(images[index : index + 1], angle)
        old = colour_word((images[index] * 255).round().to(torch.uint8).cpu())
        new = colour_word((turned[0] * 255).round().to(torch.uint8).cpu())
        if new in (None, "black", "white", "grey", "brown") or new == old:
            continue
        kept.append(turned)
        forms = [f"{new} {row.name}", f"a {new} {row.name}", f"a picture of a {new} {row.name}"]
        captions.append([str(rng.choice(forms)) for _ in range(count)])
    return (torch.cat(kept) if kept else images[:0]), captions


def recoloured_bank(
    images: Tensor,
    rows: Sequence[Row],
    vqgan: VQGAN,
    tokenizer: CaptionTokenizer,
    recipe: DalleRecipe,
    generator: torch.Generator,
) -> CodeBank | None:
    """Codes and captions of pictures in other colours, None if no picture has one colour."""
    pictures, captions = recoloured(images, rows, recipe.captions, recipe.seed + 1)
    if not captions:
        return None
    codes = [encode_all(vqgan, version) for version in versions_of(pictures, max(1, recipe.versions // 3), generator)]
    table = caption_table(captions, tokenizer, recipe.config.text_length, framed=False)
    return CodeBank(torch.stack(codes, 1), table.to(images.device))


def only(pictures: Pictures, designs: Sequence[str], groups: Sequence[int]) -> Pictures:
    """The pictures of some designs and groups, all of them where none is named."""
    kept = [
        index
        for index, row in enumerate(pictures.rows)
        if (not designs or row.design in designs) and (not groups or row.group in groups)
    ]
    return Pictures(pictures.images[kept], [pictures.rows[index] for index in kept])


class DalleTrainer:
    """Model, code banks on the device, optimiser."""

    def __init__(
        self, recipe: DalleRecipe, pictures: Pictures, vqgan: VQGAN, tokenizer: CaptionTokenizer, device: torch.device
    ) -> None:
        self.recipe, self.device = recipe, device
        torch.manual_seed(recipe.seed)  # initial weights and dropout; a stage is a process of its own
        self.generator = torch.Generator(device).manual_seed(recipe.seed)
        self.dalle = Dalle(recipe.config).to(device)
        self.average = Average(self.dalle, Dalle(recipe.config).to(device), recipe.average)
        self.optimizer = adam(decayed_groups(self.dalle, recipe.weight_decay), recipe.rate, (0.9, 0.95), device)
        self.network: Any = self.dalle  # may be a compiled form of it
        pictures = only(pictures, recipe.designs, recipe.groups)
        images = pictures.images.to(device).float() / 255.0
        words = [row.keywords for row in pictures.rows]
        colours = [colour_word(image, own) for image, own in zip(pictures.images, words, strict=True)]
        self.bank = bank_of(images, pictures.rows, colours, vqgan, tokenizer, recipe, self.generator)
        self.colour_bank = self.bank
        if recipe.recoloured:
            others = recoloured_bank(images, pictures.rows, vqgan, tokenizer, recipe, self.generator)
            self.colour_bank = others or self.bank

    def batch(self) -> tuple[Tensor, Tensor]:
        """Caption ids (B, T), some all padding, and codes (B, N)."""
        other = int(self.recipe.batch * self.recipe.recoloured)
        parts = [self.bank.draw(self.recipe.batch - other, self.generator)]
        if other:
            parts.append(self.colour_bank.draw(other, self.generator))
        text, codes = (torch.cat(column) for column in zip(*parts, strict=True))
        silent = torch.rand(len(text), 1, device=self.device, generator=self.generator) < self.recipe.no_caption
        return text.masked_fill(silent, PAD), codes

    def step(self, rate: float) -> Tensor:
        """One update; the loss in nats per code."""
        text, codes = self.batch()
        random = torch.randint(
            0, self.recipe.config.image_vocab, codes.shape, device=self.device, generator=self.generator
        )
        wrong = torch.rand(codes.shape, device=self.device, generator=self.generator) < self.recipe.wrong_codes
        with mixed(self.device):
            logits = self.network(text, torch.where(wrong, random, codes))
            loss = F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.dalle.parameters(), 1.0)
        self.optimizer.step()
        self.average.update()
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "dalle": self.dalle.state_dict(),
            "average": self.average.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.dalle.load_state_dict(state["dalle"])
        self.average.target.load_state_dict(state["average"])
        self.average.count = 10**6
        self.optimizer.load_state_dict(state["optimizer"])


@torch.inference_mode()
def held_out_loss(dalle: Dalle, text: Tensor, codes: Tensor) -> float:
    """Nats per code of the held-out design: falls with understanding, rises with learning by heart."""
    losses = []
    for ids, wanted in zip(text.split(256), codes.split(256), strict=True):
        with mixed(text.device):
            logits = dalle(ids, wanted)
        losses.append(F.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten()))
    return float(torch.stack(losses).mean())


def train_dalle(
    plan: Plan, vqgan: VQGAN, tokenizer: CaptionTokenizer, recipe: DalleRecipe, compiled: bool = False
) -> Dalle:
    """The whole stage; the averaged model is saved in `plan.out` every few minutes and at the end."""
    vqgan = vqgan.to(plan.device)
    trainer = DalleTrainer(recipe, Pictures.training(plan.data), vqgan, tokenizer, plan.device)
    if compiled:
        trainer.network = torch.compile(trainer.dalle)
    held_out = Pictures.held_out(plan.data)  # measured, never trained on
    codes = encode_all(vqgan, held_out.images.to(plan.device).float() / 255.0).long()
    names = [row.name for row in held_out.rows]
    text = tokenizer.encode(names, recipe.config.text_length, framed=False).ids.to(plan.device)
    run = Run(plan.out, plan.budget)
    state = run.resume() if plan.resume else None
    if state:
        trainer.load(state)
    model = trainer.average.target
    for step in run.steps():
        loss = trainer.step(run.rate(recipe.rate, warmup_steps=500))
        if step % 200 == 0:
            run.log(loss=float(loss))
        if run.due():
            run.save(trainer.state())
            save_model(model, plan.out)
            run.log(heldout_loss=held_out_loss(model, text, codes))
    save_model(model, plan.out)
    run.save(trainer.state())
    run.log(heldout_loss=held_out_loss(model, text, codes))
    return model
