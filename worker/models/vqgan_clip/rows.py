"""Several VQGAN+CLIP runs as rows of one step: one decode, one resampling and one CLIP forward for all of them.

Mathematics and source: worker.models.vqgan_clip.state, whose states are the rows. Losses are summed over rows, never
averaged, and nothing mixes rows, so every row's gradient is its own. Each has its own seed, step, number of steps,
learning rate, prompts and weights; what shapes the computation (`share_key`) they have in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.models.errors import ShapeError
from worker.models.noise import fold
from worker.models.vqgan_clip.guidance import (
    add_noise,
    border_distance,
    cut,
    cut_boxes,
    prompt_loss,
    total_variation,
)
from worker.models.vqgan_clip.latent import Schedule, Targets, latent_of, picture_of
from worker.models.vqgan_clip.state import VqganClipState

CUTS, GRAIN = 2, 3  # streams of a seed, beside latent.INIT


@dataclass(frozen=True, slots=True)
class Pieces:
    """How much of a step is computed at a time. Less takes less memory and more time. The gradients are the same, but
    for their last bits."""

    rows: int | None = None  # of one pass; None: all
    cuts: int | None = None  # views of every row at a time; None: all
    decodes_twice: bool = False  # forget the decoder's activations while CLIP looks, and make them again
    is_padded: bool = False  # every pass has exactly `rows` rows, so that no sum ever goes another way


@dataclass(frozen=True, slots=True)
class Losses:
    """Of one step, before it, in the order of the rows."""

    values: list[float]
    are_finite: list[bool]  # gradients included


class _Part(NamedTuple):
    """The rows of one pass."""

    first: Tensor
    grids: list[Tensor]
    keys: dict[int, Tensor]
    targets: list[Targets]
    weights: Schedule


class LatentRows:
    """Takes in states of one `share_key`, steps them, and gives them back as they then are.

    While a state is inside, its tensors live here, stacked with those of the others. Its own are those it came with,
    until `sync` copies the present ones to it; only its step count is kept up to date."""

    def __init__(self, like: VqganClipState) -> None:
        """`like` is any state of the kind that will come."""
        self.states: list[VqganClipState] = []
        self._key, self._recipe, self._autocast = like.share_key, like.recipe, like.autocast
        self._vqgan, self._clips = like.vqgan, [perceptor.clip for perceptor in like.perceptors]
        self._bounds, self._device = like.bounds, like.first.device
        self._rows: dict[str, Tensor] = {}  # the states' tensors by name, stacked
        self._targets: list[Targets] = []  # per perceptor
        self._streams: dict[int, Tensor] = {}  # keys (B,) of seed and stream

    def push(self, states: Sequence[VqganClipState]) -> None:
        """Take states in, behind those that are there. Where it raises, none came in."""
        if any(state.share_key != self._key for state in states):
            raise ShapeError("a run with another model, size or recipe")
        stacks = [self._rows] if self.states else []
        stacks += [state.tensors() for state in states]
        self._hold([*self.states, *states], {name: torch.cat([stack[name] for stack in stacks]) for name in stacks[0]})

    def pull(self, states: Sequence[VqganClipState]) -> None:
        """Give states back."""
        for state in states:
            self.sync(state)
        kept = [place for place, state in enumerate(self.states) if state not in states]
        self._hold([self.states[place] for place in kept], {name: stack[kept] for name, stack in self._rows.items()})

    def sync(self, state: VqganClipState) -> None:
        """Bring a state's tensors up to its step count. Does nothing for one that is not inside."""
        if state in self.states:
            place = self.states.index(state)
            state.take({name: stack[place : place + 1].clone() for name, stack in self._rows.items()})

    def _hold(self, states: list[VqganClipState], rows: dict[str, Tensor]) -> None:
        targets = [_stacked(targets) for targets in zip(*(state.targets for state in states), strict=True)]
        seeds = torch.tensor([state.seed for state in states], dtype=torch.int64, device=self._device)
        self._streams = {stream: fold(seeds, stream) for stream in (CUTS, GRAIN)}
        self.states, self._rows, self._targets = states, rows, targets

    def step(self, pieces: Pieces | None = None) -> Losses:
        """One step of all rows. Where it raises, nothing has moved."""
        pieces, schedules = pieces or Pieces(), [state.schedule() for state in self.states]
        plan = Schedule(*torch.tensor(schedules, device=self._device).T)
        counts = torch.tensor([state.step_count for state in self.states], device=self._device)
        everything = _Part(
            self._rows["first"],
            [self._rows[f"grid.{level}"] for level in range(len(self._recipe.levels))],
            {stream: fold(key, counts) for stream, key in self._streams.items()},
            self._targets,
            plan,
        )
        losses, gradients = self._gradients(everything, pieces)
        finite = torch.stack([losses, *(gradient.flatten(1).sum(1) for gradient in gradients)]).isfinite().all(0)
        self._descend(gradients, plan)
        for state in self.states:
            state.step_count += 1
        values, are_finite = torch.stack([losses, finite]).tolist()
        return Losses(values, [flag == 1.0 for flag in are_finite])

    def _gradients(self, everything: _Part, pieces: Pieces) -> tuple[Tensor, list[Tensor]]:
        """Losses (B,) and the grids' gradients, in as many passes as it takes."""
        count = len(self.states)
        losses, gradients = [], []
        for begin, end in _spans(count, pieces.rows or count):
            places = list(range(begin, end))
            if pieces.is_padded and pieces.rows:
                places += [begin] * (pieces.rows - len(places))
            loss, levels = self._pass(_selected(everything, places), pieces)
            losses.append(loss[: end - begin])
            gradients.append([level[: end - begin] for level in levels])
        return torch.cat(losses), [torch.cat(level) for level in zip(*gradients, strict=True)]

    def _pass(self, part: _Part, pieces: Pieces) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Losses (n,) and the grids' gradients of some rows. The picture is a leaf between its two halves, so that the
        views can be looked at in parts, and the decoder's activations need not wait for them."""
        recipe = self._recipe
        grids = [grid.detach().requires_grad_() for grid in part.grids]
        autocast = torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None)
        with torch.enable_grad(), autocast:
            latent = latent_of(part.first, grids, self._bounds)
            with torch.set_grad_enabled(not pieces.decodes_twice):
                picture = picture_of(self._vqgan, latent, recipe.quantize)
            losses, pull = self._look(part, picture.detach().requires_grad_(), pieces.cuts or recipe.cuts.cuts)
            if pieces.decodes_twice:
                picture = picture_of(self._vqgan, latent, recipe.quantize)
            near = part.weights.near * (latent - part.first).square().mean((1, 2, 3))
            gradients = torch.autograd.grad([picture, near.sum()], grids, [pull, None])
        return losses + near.detach(), gradients

    def _look(self, part: _Part, picture: Tensor, at_once: int) -> tuple[Tensor, Tensor]:
        """What is to be said of pictures (n, 3, H, W), (n,), and which way that pulls, (n, 3, H, W)."""
        settings, weights = self._recipe.cuts, part.weights
        loss = weights.smooth * total_variation(picture) + weights.background * border_distance(picture)
        pull = torch.autograd.grad(loss.sum(), picture)[0]
        losses = loss.detach()
        boxes = cut_boxes(part.keys[CUTS], settings, *picture.shape[2:])  # (n, cuts, 2, 3)
        for clip, targets in zip(self._clips, part.targets, strict=True):
            for first, end in _spans(settings.cuts, at_once):
                views = cut(picture, boxes[:, first:end].flatten(0, 1), clip.image_size_px, settings.fill)
                views = add_noise(views, part.keys[GRAIN], settings, first)
                vectors = clip.encode_image(views).unflatten(0, (len(picture), -1))  # (n, cuts, D)
                loss = prompt_loss(vectors, *targets, settings.cuts)
                pull += torch.autograd.grad(loss.sum(), picture)[0]
                losses += loss.detach()
        return losses, pull

    @torch.no_grad()
    def _descend(self, gradients: Sequence[Tensor], plan: Schedule) -> None:
        """Adam (Kingma and Ba, 2015) with every row's own rate and bias, then the running average of the latent."""
        (beta1, beta2), moved = self._recipe.betas, dict(self._rows)
        rate, bias = plan.rate.view(-1, 1, 1, 1), plan.bias.view(-1, 1, 1, 1)
        grids = []
        for level, gradient in enumerate(gradients):
            first = torch.lerp(moved[f"moment1.{level}"], gradient, 1 - beta1)
            second = torch.lerp(moved[f"moment2.{level}"], gradient.square(), 1 - beta2)
            scale = (second / bias).sqrt_().add_(1e-8)
            grids.append(moved[f"grid.{level}"] - (rate * first).div_(scale))
            moved |= {f"moment1.{level}": first, f"moment2.{level}": second, f"grid.{level}": grids[level]}
        moved["mean"] = torch.lerp(
            moved["mean"], latent_of(moved["first"], grids, self._bounds), 1 - self._recipe.average
        )
        self._rows = moved


def step_alone(state: VqganClipState) -> float:
    """One step of a state alone; the loss before it."""
    rows = LatentRows(state)
    rows.push([state])
    loss = rows.step().values[0]
    rows.pull([state])
    return loss


def _spans(count: int, size: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, count, size):
        yield begin, min(count, begin + size)


def _selected(part: _Part, places: list[int]) -> _Part:
    if places == list(range(len(part.first))):
        return part
    return _Part(
        part.first[places],
        [grid[places] for grid in part.grids],
        {stream: key[places] for stream, key in part.keys.items()},
        [(vectors[places], weights[places], stops[places]) for vectors, weights, stops in part.targets],
        Schedule(*(row[places] for row in part.weights)),  # type: ignore[index]  # of rows, they are tensors
    )


def _stacked(targets: Sequence[Targets]) -> Targets:
    """Rows of different numbers of prompts in one."""
    max_prompts = max(weights.shape[1] for _, weights, _ in targets)
    rows = []
    for vectors, weights, stops in targets:
        lack = max_prompts - weights.shape[1]
        rows.append((F.pad(vectors, (0, 0, 0, lack)), F.pad(weights, (0, lack)), F.pad(stops, (0, lack))))
    vectors, weights, stops = (torch.cat(stack) for stack in zip(*rows, strict=True))
    return vectors, weights, stops
