"""Training unCLIP on a frozen CLIP's vectors and a frozen VQGAN's codes: prior and decoder in one run.

Source: Ramesh et al., "Hierarchical Text-Conditional Image Generation with CLIP Latents" (2022), section 2. Vectors and
codes of every picture's versions are computed once, before the first step; a step then costs the decoder's pass and,
next to nothing, the prior's over a larger batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worker.checkpoints.loading import save_model
from worker.models.unclip.diffusion import DiffusionRow, amplitudes, mixed_with, spread, velocity
from worker.models.unclip.sampler import check_fit, picture_vectors, prior_sampler
from worker.models.unclip.unclip import Unclip, UnclipConfig
from worker.training.data.captions import colour_word, write_captions
from worker.training.data.pictures import Pictures
from worker.training.loop import Average, Plan, Run, adam, decayed_groups, mixed, set_rate
from worker.training.recipes.dalle import encode_all, only, recoloured
from worker.training.recipes.vectors import Frozen, VectorBank, bank_of, caption_rows, picture_rows

MEASURED = 512  # held-out pictures that the curves look at


@dataclass(frozen=True, slots=True)
class UnclipRecipe:
    """The embedded model's, for about 75 minutes of one CPU core."""

    config: UnclipConfig = field(default_factory=UnclipConfig)
    batch: int = 64
    prior_batch: int = 512
    rate: float = 1e-3
    weight_decay: float = 0.02
    average: float = 0.999
    no_picture: float = 0.1  # share of the decoder's picture vectors left out
    no_caption: float = 0.1  # share of the prior's captions left out
    near: float = 0.1  # noise on the decoder's picture vectors, in spreads: what the prior makes is not exact
    versions: int = 1  # of every picture, the first one unchanged; CLIP hardly tells shifts apart, so more blur
    captions: int = 16  # per picture
    recoloured: float = 0.1  # share of a batch from the recoloured pictures; 0 for none
    designs: tuple[str, ...] = ()  # train on these only; empty: all. Few designs are learnt sooner
    groups: tuple[int, ...] = ()  # and on these of emojibase's groups only (3 nature, 4 food, ...); empty: all
    seed: int = 11


class UnclipTrainer:
    """Model, banks on the device, optimiser. The model's sizes of latent and vectors are the frozen models'."""

    def __init__(self, recipe: UnclipRecipe, pictures: Pictures, frozen: Frozen, device: torch.device) -> None:
        config = replace(
            recipe.config,
            embedding=frozen.clip.width,
            channels=frozen.vqgan.config.code_width,
            grid=frozen.vqgan.config.grid,
        )
        self.recipe, self.frozen, self.device = recipe, frozen, device
        torch.manual_seed(recipe.seed)  # initial weights and dropout; a stage is a process of its own
        self.generator = torch.Generator(device).manual_seed(recipe.seed)
        self.unclip = Unclip(config).to(device)
        check_fit(self.unclip, frozen.vqgan, frozen.clip.width)
        self._fill(only(pictures, recipe.designs, recipe.groups))
        self.average = Average(self.unclip, Unclip(config).to(device), recipe.average)
        self.optimizer = adam(decayed_groups(self.unclip, recipe.weight_decay), recipe.rate, (0.9, 0.98), device)

    def _fill(self, pictures: Pictures) -> None:
        recipe, rng = self.recipe, np.random.default_rng(self.recipe.seed)
        images = pictures.images.to(self.device).float() / 255.0
        words = [row.keywords for row in pictures.rows]
        colours = [colour_word(image, own) for image, own in zip(pictures.images, words, strict=True)]
        captions = [
            write_captions(row, recipe.captions, rng, colour, False)
            for row, colour in zip(pictures.rows, colours, strict=True)
        ]
        self.bank = bank_of(images, captions, recipe.versions, self.frozen, self.generator)
        self.colour_bank: VectorBank | None = None
        if recipe.recoloured:
            turned, captions = recoloured(images, pictures.rows, recipe.captions, recipe.seed + 1)
            if captions:
                self.colour_bank = bank_of(turned, captions, max(1, recipe.versions // 3), self.frozen, self.generator)
        set_spreads(self.unclip, self.latent(self.bank.codes[:, 0]), self.bank.pictures.flatten(0, 1).float())

    def latent(self, codes: Tensor) -> Tensor:
        """Vectors (B, C, h, w) of codes (B, h * w)."""
        grid = self.frozen.vqgan.config.grid
        return self.frozen.vqgan.quantize.lookup(codes.long().view(-1, grid, grid)).float()

    def _parts(self, count: int) -> Iterator[tuple[VectorBank, int]]:
        other = int(count * self.recipe.recoloured) if self.colour_bank is not None else 0
        yield self.bank, count - other
        if self.colour_bank is not None and other:
            yield self.colour_bank, other

    def _silent(self, count: int, share: float) -> Tensor:
        return torch.rand(count, device=self.device, generator=self.generator) < share

    def _noise(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Noise like (B, ...), and times (B,) spread evenly over (0, 1) in random order."""
        count = len(like)
        steps = torch.rand(count, device=self.device, generator=self.generator)
        order = torch.randperm(count, device=self.device, generator=self.generator)
        noise = torch.randn(like.shape, device=self.device, generator=self.generator)
        return noise, (order + steps) / count

    def decoder_loss(self) -> Tensor:
        """Error of the decoder's denoising, on a batch of pictures."""
        drawn = [bank.views(count, self.generator) for bank, count in self._parts(self.recipe.batch)]
        codes, pictures = (torch.cat(column) for column in zip(*drawn, strict=True))
        clean, vectors = self.unclip.whiten_latent(self.latent(codes)), self.unclip.whiten(pictures)
        blur = torch.randn(vectors.shape, device=self.device, generator=self.generator)
        noise, time = self._noise(clean)
        silent = self._silent(len(clean), self.recipe.no_picture)
        with mixed(self.device):
            said = self.unclip.decoder(mixed_with(noise, clean, time), time, vectors + self.recipe.near * blur, silent)
        return latent_error(said.float(), noise, clean, time)

    def prior_loss(self) -> Tensor:
        """Mean squared error of the whitened picture vector."""
        drawn = [bank.pairs(count, self.generator) for bank, count in self._parts(self.recipe.prior_batch)]
        texts, pictures = (torch.cat(column) for column in zip(*drawn, strict=True))
        clean = self.unclip.whiten(pictures)
        noise, time = self._noise(clean)
        silent = self._silent(len(clean), self.recipe.no_caption)
        with mixed(self.device):
            said = self.unclip.prior(mixed_with(noise, clean, time), time, texts, silent)
        return F.mse_loss(said.float(), clean)

    def step(self, rate: float) -> tuple[Tensor, Tensor]:
        """One update of both; the decoder's and the prior's loss."""
        losses = self.decoder_loss(), self.prior_loss()
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(losses)
        for part in (self.unclip.decoder, self.unclip.prior):
            torch.nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        self.optimizer.step()
        self.average.update()
        return losses[0].detach(), losses[1].detach()

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "unclip": self.unclip.state_dict(),
            "average": self.average.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.unclip.load_state_dict(state["unclip"])
        self.average.target.load_state_dict(state["average"])
        self.average.count = 10**6
        self.optimizer.load_state_dict(state["optimizer"])


def latent_error(said: Tensor, noise: Tensor, clean: Tensor, time: Tensor) -> Tensor:
    """Mean squared error of the latent that the velocities `said` (B, C, h, w) stand for, twice that.

    The velocity's own error would spend the network on learning the codebook by heart: near time 0 it is all about the
    last bit of noise, which rounding to codes takes away for nothing. `sigma` of its error is the latent's.
    """
    _, sigma = amplitudes(time)
    return 2.0 * ((said - velocity(noise, clean, time)) * spread(sigma, said)).square().mean()


def set_spreads(unclip: Unclip, latents: Tensor, vectors: Tensor) -> None:
    """Note mean and spread of training latents (N, C, h, w) and picture vectors (N, D), as float16 files hold them."""
    unclip.latent_mean.copy_(latents.mean((0, 2, 3)).half())
    unclip.latent_spread.copy_(latents.std((0, 2, 3)).half())
    unclip.picture_mean.copy_(vectors.mean(0).half())
    unclip.picture_spread.copy_(vectors.std(0).clamp_min(1e-3).half())


class HeldOut:
    """Latents, picture vectors and names' vectors of part of the held-out design, for measuring only."""

    def __init__(self, every: Pictures, trainer: UnclipTrainer, count: int = MEASURED) -> None:
        kept = list(range(0, len(every.rows), max(1, len(every.rows) // count)))[:count]
        pictures = Pictures(every.images[kept], [every.rows[index] for index in kept])
        images = pictures.images.to(trainer.device).float() / 255.0
        self.pictures = picture_rows(trainer.frozen.clip, images).float()
        texts, places = caption_rows(trainer.frozen.clip, [[row.name] for row in pictures.rows])
        self.texts = texts.float()[places[:, 0].long()]
        self.latents = trainer.latent(encode_all(trainer.frozen.vqgan, images))

    @torch.inference_mode()
    def figures(self, unclip: Unclip) -> dict[str, float]:
        """The decoder's loss, and the mean cosine of the prior's vectors with the pictures' own, names as captions."""
        generator = torch.Generator(self.latents.device).manual_seed(0)
        clean, vectors = unclip.whiten_latent(self.latents), unclip.whiten(self.pictures)
        noise = torch.randn(clean.shape, device=clean.device, generator=generator)
        time = (torch.arange(len(clean), device=clean.device) % 16 + 0.5) / 16
        silent = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
        with mixed(clean.device):
            said = unclip.decoder(mixed_with(noise, clean, time), time, vectors, silent)
        loss = latent_error(said.float(), noise, clean, time)
        steps, scale = unclip.config.prior_steps, unclip.config.prior_guidance
        sampler = prior_sampler(unclip, self.texts, [DiffusionRow(0, i, steps, scale) for i in range(len(clean))])
        while not sampler.step():
            pass
        cosine = (picture_vectors(unclip, sampler) * self.pictures).sum(1).mean()
        return {"heldout_decoder_loss": float(loss), "heldout_prior_cosine": float(cosine)}


def train_unclip(plan: Plan, frozen: Frozen, recipe: UnclipRecipe) -> Unclip:
    """The whole stage; the averaged model is saved in `plan.out` every few minutes and at the end."""
    for part in (frozen.clip, frozen.vqgan):
        part.to(plan.device).to(memory_format=torch.channels_last)
    trainer = UnclipTrainer(recipe, Pictures.training(plan.data), frozen, plan.device)
    held_out = HeldOut(Pictures.held_out(plan.data), trainer)
    run = Run(plan.out, plan.budget)
    state = run.resume() if plan.resume else None
    if state:
        trainer.load(state)
    model = trainer.average.target
    for step in run.steps():
        decoder, prior = trainer.step(run.rate(recipe.rate, warmup_steps=200))
        if step % 100 == 0:
            run.log(decoder_loss=float(decoder), prior_loss=float(prior))
        if run.due():
            run.save(trainer.state())
            save_model(model, plan.out)
            run.log(**held_out.figures(model))
    save_model(model, plan.out)
    run.save(trainer.state())
    run.log(**held_out.figures(model))
    return model
