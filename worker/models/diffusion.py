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
"""The thing (A, ...) that a network sees in noisy rows (A, ...) at their times (A,), of the rows (A,) int64 of the
batch, the condition left out where `silent` (A,) bool."""


class DiffusionSampler:
    """A batch of rows, each at its own step of its own number of steps, for whoever drives it.

    The driver calls `step()` until it returns True, looks between steps whether to stop, and may read `estimate`
    at any time. `counter` tells two samplers of one picture apart, so that their noise differs.
    """

    def __init__(
        self, predict: Predict, shape: Sequence[int], rows: Sequence[DiffusionRow], counter: int, device: torch.device,
        bounds: tuple[Tensor, Tensor] | None = None,
    ) -> None:  # fmt: skip
        """`shape` is one row's; `bounds`: the least and greatest values that an estimate may have."""
        self._predict = predict
        self._bounds = bounds
        seed = torch.tensor([row.seed for row in rows], dtype=torch.int64, device=device)
        image = torch.tensor([row.image for row in rows], dtype=torch.int64, device=device)
        self.steps = torch.tensor([row.steps for row in rows], dtype=torch.int64, device=device)
        self.guidance = torch.tensor([row.guidance for row in rows], device=device)
        self.position = torch.zeros_like(self.steps)
        noise = normal(fold(fold(seed, image), counter), int(torch.Size(shape).numel()))
        self.rows = noise.view(len(rows), *shape)
        self.estimate = torch.zeros_like(self.rows)  # what every row would become if it ended now
        self.taken = 0
        self.length = max(row.steps for row in rows)
        self._is_guided = any(row.guidance != 1.0 for row in rows)

    @property
    def done(self) -> bool:
        """True once every row is at its end."""
        return self.taken >= self.length

    @torch.inference_mode()
    def step(self) -> bool:
        """One step of every row that is not at its end; True when that was the last. Does nothing once done."""
        if self.done:
            return True
        live = (self.position < self.steps).nonzero().flatten()
        place, steps = self.position[live].float(), self.steps[live].float()
        noisy, time, later = self.rows[live], 1.0 - place / steps, 1.0 - (place + 1.0) / steps
        clean = self._guided(noisy, time, live)
        if self._bounds:
            clean = clean.clamp(*self._bounds)
        self.estimate[live] = clean
        self.rows[live] = ddim(noisy, clean, time, later.clamp_min(0.0))
        self.position[live] += 1
        self.taken += 1
        return self.done

    def _guided(self, noisy: Tensor, time: Tensor, live: Tensor) -> Tensor:
        """The condition's prediction, moved away from the one without a condition."""
        silent = torch.zeros(len(live), dtype=torch.bool, device=live.device)
        if not self._is_guided:
            return self._predict(noisy, time, live, silent)
        both = (torch.cat([noisy, noisy]), torch.cat([time, time]), torch.cat([live, live]))
        said, unsaid = self._predict(*both, torch.cat([silent, ~silent])).chunk(2)
        return unsaid + spread(self.guidance[live], noisy) * (said - unsaid)
