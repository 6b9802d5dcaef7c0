"""Denoising in continuous time, from 1 (noise alone) to 0 (the thing itself): schedule and DDIM, row by row.

Sources: Song, Meng, Ermon, "Denoising Diffusion Implicit Models" (2021), equation 12 with eta 0; Nichol and Dhariwal,
"Improved DDPM" (2021) for the cosine schedule; Salimans and Ho, "Progressive Distillation" (2022), appendix D, for the
velocity; Ho and Salimans, "Classifier-Free Diffusion Guidance" (2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.models.errors import RangeError
from worker.models.noise import check_seed, fold, normal

MAX_STEPS = 1000


def spread(values: Tensor, like: Tensor) -> Tensor:
    """One number per row (B,) in a form that multiplies rows of any rank (B, ...)."""
    return values.view(-1, *([1] * (like.ndim - 1)))


def amplitudes(time: Tensor) -> tuple[Tensor, Tensor]:
    """How much of the thing and how much noise there is at `time` (B,): cosine and sine of a quarter turn."""
    angle = time.float() * (torch.pi / 2)
    return angle.cos(), angle.sin()


def mixed_with(noise: Tensor, clean: Tensor, time: Tensor) -> Tensor:
    """The thing `clean` (B, ...) as it looks at `time` (B,)."""
    alpha, sigma = amplitudes(time)
    return spread(alpha, clean) * clean + spread(sigma, clean) * noise


def velocity(noise: Tensor, clean: Tensor, time: Tensor) -> Tensor:
    """What a v-predicting network should say of `mixed_with(noise, clean, time)`."""
    alpha, sigma = amplitudes(time)
    return spread(alpha, clean) * noise - spread(sigma, clean) * clean


def clean_of(noisy: Tensor, velocity: Tensor, time: Tensor) -> Tensor:
    """The thing that a velocity stands for."""
    alpha, sigma = amplitudes(time)
    return spread(alpha, noisy) * noisy - spread(sigma, noisy) * velocity


def ddim(noisy: Tensor, clean: Tensor, time: Tensor, later: Tensor) -> Tensor:
    """The rows (B, ...) at the smaller time `later` (B,), if `clean` is what they hold. `time` is above 0."""
    alpha, sigma = amplitudes(time)
    noise = (noisy - spread(alpha, noisy) * clean) / spread(sigma, noisy)
    return mixed_with(noise, clean, later)


@dataclass(frozen=True, slots=True)
class DiffusionRow:
    """How one row is drawn."""

    seed: int
    image: int  # which of the job's pictures this is; with the seed it fixes the noise
    steps: int
    guidance: float  # 1 leaves the conditional prediction as it is

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not 1 <= self.steps <= MAX_STEPS:
            raise RangeError(f"steps {self.steps} is outside [1, {MAX_STEPS}]")
        if not 0.0 <= self.guidance <= 100.0:
            raise RangeError(f"guidance {self.guidance} is outside [0, 100]")


Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""The thing (A, ...) that a network sees in noisy rows (A, ...) at their times (A,), of their conditions (A, D), the
condition left out where `silent` (A,) bool."""


@dataclass(eq=False)
class DiffusionState:
    """One row, at its own step. While it is in a DiffusionRows, only its position is kept up to date: its tensors are
    those it came with."""

    settings: DiffusionRow
    condition: Tensor  # (D,)
    noisy: Tensor  # what it is by now: the thing itself once it is done
    estimate: Tensor  # what it would become if it ended now
    position: int = 0  # steps taken

    @property
    def done(self) -> bool:
        """Whether all its steps are taken."""
        return self.position >= self.settings.steps


@dataclass(frozen=True, slots=True)
class Denoiser:
    """A network that rows can share, and what they start from. `counter` tells two denoisers of one picture apart, so
    that their noise differs; `bounds`: the least and greatest values that an estimate may have."""

    predict: Predict
    shape: Sequence[int]  # of one row
    counter: int
    bounds: tuple[Tensor, Tensor] | None = None

    @torch.inference_mode()
    def start(self, rows: Sequence[DiffusionRow], conditions: Tensor) -> list[DiffusionState]:
        """Rows at their first step, of conditions (B, D)."""
        device = conditions.device
        seed = torch.tensor([row.seed for row in rows], dtype=torch.int64, device=device)
        image = torch.tensor([row.image for row in rows], dtype=torch.int64, device=device)
        noise = normal(fold(fold(seed, image), self.counter), int(torch.Size(self.shape).numel()))
        parts = zip(rows, conditions, noise.view(len(rows), *self.shape), strict=True)
        return [DiffusionState(row, condition, own, torch.zeros_like(own)) for row, condition, own in parts]


class DiffusionRows:
    """Takes in states, steps them together, and gives them back as they then are. No row depends on another."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self.states: list[DiffusionState] = []
        self._noisy = self._estimate = self._conditions = self._guidance = torch.empty(0)  # (B, ...) each

    @torch.inference_mode()
    def push(self, states: Sequence[DiffusionState]) -> None:
        """Take states in, behind those that are there. Where it raises, none came in."""
        old, inside = self.states, bool(self.states)
        noisy = torch.cat([*[self._noisy] * inside, *(state.noisy[None] for state in states)])
        estimate = torch.cat([*[self._estimate] * inside, *(state.estimate[None] for state in states)])
        conditions = torch.cat([*[self._conditions] * inside, *(state.condition[None] for state in states)])
        self._hold([*old, *states], noisy, estimate, conditions)

    @torch.inference_mode()
    def pull(self, states: Sequence[DiffusionState]) -> None:
        """Give states back."""
        going = {id(state) for state in states}
        for state, noisy, estimate in zip(self.states, self._noisy, self._estimate, strict=True):
            if id(state) in going:
                state.noisy, state.estimate = noisy.clone(), estimate.clone()
        kept = [place for place, state in enumerate(self.states) if id(state) not in going]
        stays = [self.states[place] for place in kept]
        self._hold(stays, self._noisy[kept], self._estimate[kept], self._conditions[kept])

    def _hold(self, states: list[DiffusionState], noisy: Tensor, estimate: Tensor, conditions: Tensor) -> None:
        self._guidance = torch.tensor([state.settings.guidance for state in states], device=noisy.device)
        self.states, self._noisy, self._estimate, self._conditions = states, noisy, estimate, conditions

    @torch.inference_mode()
    def step(self, width: int | None = None, is_padded: bool = False) -> list[bool]:
        """One step of every row, `width` of them at a time; whether each is all numbers. A padded pass has that many
        rows always, each with and without its condition, so that no sum ever goes another way. Where it raises,
        nothing has moved."""
        count = len(self.states)
        at = torch.tensor([[state.position, state.settings.steps] for state in self.states], device=self._noisy.device)
        time, later = (1.0 - (at[:, 0] + step).float() / at[:, 1].float() for step in (0, 1))
        cleans = []
        for begin in range(0, count, width or count):
            places = list(range(begin, min(count, begin + (width or count))))
            own = len(places)
            if is_padded and width:
                places += [begin] * (width - own)
            cleans.append(self._clean(places, time, is_padded)[:own])
        clean = torch.cat(cleans)
        if self._denoiser.bounds:
            clean = clean.clamp(*self._denoiser.bounds)
        self._noisy, self._estimate = ddim(self._noisy, clean, time, later.clamp_min(0.0)), clean
        for state in self.states:
            state.position += 1
        return self._noisy.isfinite().flatten(1).all(1).tolist()

    def _clean(self, places: list[int], time: Tensor, is_padded: bool) -> Tensor:
        """The conditions' predictions, moved away from the ones without a condition."""
        noisy, time, condition = self._noisy[places], time[places], self._conditions[places]
        guidance = self._guidance[places]
        settings = [self.states[place].settings for place in places]
        guided = [number for number, row in enumerate(settings) if is_padded or row.guidance != 1.0]
        silent = torch.zeros(len(places), dtype=torch.bool, device=noisy.device)
        if not guided:
            return self._denoiser.predict(noisy, time, condition, silent)
        both = [torch.cat([whole, whole[guided]]) for whole in (noisy, time, condition, silent)]
        both[-1][len(places) :] = True
        said, unsaid = self._denoiser.predict(*both).split([len(places), len(guided)])
        strength = spread(guidance[guided], noisy)
        moved = unsaid + strength * (said[guided] - unsaid)
        said = said.clone()
        said[guided] = torch.where(strength == 1.0, said[guided], moved)
        return said


class DiffusionSampler:
    """Rows that come and end together, for whoever drives them: calls `step()` until it returns True, and may read
    `estimate` at any time."""

    def __init__(self, denoiser: Denoiser, rows: Sequence[DiffusionRow], conditions: Tensor) -> None:
        """conditions: (B, D), one per row."""
        self._states = denoiser.start(rows, conditions)
        self._live = DiffusionRows(denoiser)
        self._live.push(self._states)
        self.taken = 0
        self.length = max(row.steps for row in rows)

    @property
    def done(self) -> bool:
        """True once every row is at its end."""
        return not self._live.states

    def step(self) -> bool:
        """One step of every row that is not at its end; True when that was the last. Does nothing once done."""
        if not self.done:
            self._live.step()
            if ended := [state for state in self._live.states if state.done]:
                self._live.pull(ended)
            self.taken += 1
        return self.done

    @property
    def rows(self) -> Tensor:
        """(B, ...) as they are now."""
        self._renew()
        return torch.stack([state.noisy for state in self._states])

    @property
    def estimate(self) -> Tensor:
        """(B, ...): what every row would become if it ended now."""
        self._renew()
        return torch.stack([state.estimate for state in self._states])

    def _renew(self) -> None:
        live = list(self._live.states)
        if live:
            self._live.pull(live)
            self._live.push(live)
