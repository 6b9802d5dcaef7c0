"""unCLIP's rows of all jobs in one batch, each at its own step: one for priors, one for decoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from shared.errors import NonFinite
from worker.engines.generation.candidates import Candidate
from worker.models.unclip.diffusion import Denoiser, DiffusionRows, DiffusionState
from worker.models.vqgan_clip.footprint import kept_bytes

__all__ = ["KIND", "DiffusionStepper", "Drawn"]

KIND = "unclip"
DETERMINISTIC_ROWS = 8  # that every pass computes, needed or not


@dataclass(eq=False)
class Drawn:
    """One candidate of a job, while it is denoised."""

    candidate: Candidate
    prompt: str
    who: str  # "the prior" or "the decoder"
    state: DiffusionState
    is_finite: bool = True

    @property
    def done(self) -> bool:
        """See Row."""
        return self.state.done

    @property
    def error(self) -> NonFinite | None:
        """See Row."""
        if self.is_finite:
            return None
        return NonFinite(
            f"{self.who} made NaN or infinity at step {self.state.position}, in candidate {self.candidate.index} of "
            f"{self.prompt!r}"
        )


class DiffusionStepper:
    """See worker.engines.scheduling.stepper.Stepper. Serves the states of one denoiser.

    `budget_bytes` says what a step may take, and is asked anew whenever nothing is inside; `max_rows`: rows at once, at
    the most. `is_deterministic`: every pass computes as many rows as any other, so that sums always go the same way.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        like: Tensor,
        budget_bytes: Callable[[], int],
        max_rows: int,
        is_deterministic: bool = False,
    ) -> None:
        """like: any condition (D,)."""
        self.denoiser = denoiser
        self.row_bytes = _row_bytes(denoiser, like)
        self._rows = DiffusionRows(denoiser)
        self._inside: list[Drawn] = []
        self._budget_bytes = budget_bytes
        self._max_rows = max_rows
        self._slots = 1
        self._is_deterministic = is_deterministic
        self._width: int | None = DETERMINISTIC_ROWS if is_deterministic else None  # rows of a pass; None: all
        self._is_shrunk = False

    @property
    def slots(self) -> int:
        """See Stepper."""
        if not self._inside and not self._is_shrunk:
            self._slots = max(1, min(self._max_rows, self._budget_bytes() // self.row_bytes))
        return self._slots

    def admit(self, rows: Sequence[Drawn]) -> None:
        """See Stepper."""
        self._rows.push([row.state for row in rows])
        self._inside += rows

    def leave(self, rows: Sequence[Drawn]) -> None:
        """See Stepper."""
        self._rows.pull([row.state for row in rows])
        going = {id(row) for row in rows}
        self._inside = [row for row in self._inside if id(row) not in going]

    def step(self) -> None:
        """See Stepper."""
        for row, is_finite in zip(self._inside, self._rows.step(self._width, self._is_deterministic), strict=True):
            row.is_finite = is_finite

    def shrink(self) -> bool:
        """See Stepper. Fewer rows in a pass."""
        rows = (
            self._width
            if self._is_deterministic and self._width
            else min(self._width or self._max_rows, len(self._inside))
        )
        if rows < 2:
            return False
        self._is_shrunk, self._width = True, rows // 2
        return True

    def empty(self) -> None:
        """See Stepper. What will be free next time is another question."""
        self._is_shrunk, self._width = False, DETERMINISTIC_ROWS if self._is_deterministic else None


def _row_bytes(denoiser: Denoiser, like: Tensor) -> int:
    """What one more row takes, with and without its condition. Counted is what a way back would need, so more than is
    there at any time."""

    def run(rows: int) -> Tensor:
        noisy = torch.zeros(rows, *denoiser.shape, device=like.device, requires_grad=True)
        silent = torch.zeros(rows, dtype=torch.bool, device=like.device)
        condition = torch.zeros(rows, len(like), device=like.device)
        return denoiser.predict(noisy, torch.ones(rows, device=like.device), condition, silent)

    return 2 * max(1, kept_bytes(partial(run, 2)) - kept_bytes(partial(run, 1)))
