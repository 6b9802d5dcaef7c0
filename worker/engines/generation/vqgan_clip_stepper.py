"""VQGAN+CLIP runs of all jobs in one batch: one iteration more of each with every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from shared.errors import EngineError, NonFinite, OutOfMemory
from worker.models.vqgan_clip.footprint import footprint_of
from worker.models.vqgan_clip.rows import LatentRows, Pieces
from worker.models.vqgan_clip.state import VqganClipState

__all__ = ["LatentRow", "LatentStepper"]

# Rows of every pass. With one, a run that is alone costs what it costs anyway, and runs that share the batch take as
# long as one after the other. With more, a run that is alone would pay for rows that nobody needs.
DETERMINISTIC_ROWS = 1


@dataclass(eq=False)
class LatentRow:
    """One job's run. While it is in a batch, its state's tensors are those it came with, until LatentStepper.sync
    copies the present ones to it."""

    state: VqganClipState
    error: EngineError | None = None

    @property
    def done(self) -> bool:
        """See Row."""
        return self.state.done


class LatentStepper:
    """See worker.engines.scheduling.stepper.Stepper. Serves the states of one `share_key`.

    `budget_bytes` says what a step may take, and is asked anew whenever nothing is inside; `max_rows`: rows at once, at
    the most. `is_deterministic`: every pass computes as many rows as any other, so that sums always go the same way.
    Where not even one row fits, its views are looked at in parts, and at last its picture is decoded twice.
    """

    def __init__(
        self, like: VqganClipState, budget_bytes: Callable[[], int], max_rows: int, is_deterministic: bool = False
    ) -> None:
        self.footprint = footprint_of(like)
        self.pieces = Pieces()
        self._rows = LatentRows(like)
        self._inside: list[LatentRow] = []
        self._cuts = like.recipe.cuts.cuts
        self._budget_bytes = budget_bytes
        self._max_rows = max_rows
        self._is_deterministic = is_deterministic
        self._slots = 1
        self._is_shrunk = False

    @property
    def slots(self) -> int:
        """See Stepper."""
        if not self._inside and not self._is_shrunk:
            free = self._budget_bytes()
            self.pieces = self._pieces(free) or Pieces(
                rows=1, cuts=1, decodes_twice=True, is_padded=self._is_deterministic
            )
            self._slots = self._max_rows if self._is_deterministic else self.pieces.rows or 1
        return self._slots

    def check(self) -> None:
        """Raises OutOfMemory where a single row does not fit, however it is taken to pieces."""
        free = self._budget_bytes()
        if self._pieces(free) is None:
            least = self.footprint.of(1, decodes_twice=True)
            raise OutOfMemory(f"a run of this size takes {_mib(least)} at least; {_mib(free)} are free")

    def _pieces(self, free: int) -> Pieces | None:
        """The largest that fit."""
        footprint, cuts = self.footprint, self._cuts
        max_rows = DETERMINISTIC_ROWS if self._is_deterministic else self._max_rows
        whole = Pieces(rows=min(max_rows, free // footprint.of(cuts)), is_padded=self._is_deterministic)
        if whole.rows:
            return whole
        for decodes_twice in (False, True):
            for part in range(cuts - 1, 0, -1):
                if footprint.of(part, decodes_twice=decodes_twice) <= free:
                    return Pieces(rows=1, cuts=part, decodes_twice=decodes_twice, is_padded=self._is_deterministic)
        return None

    def admit(self, rows: Sequence[LatentRow]) -> None:
        """See Stepper."""
        self._rows.push([row.state for row in rows])
        self._inside += rows

    def leave(self, rows: Sequence[LatentRow]) -> None:
        """See Stepper."""
        self._rows.pull([row.state for row in rows])
        self._inside = [row for row in self._inside if row not in rows]

    def sync(self, row: LatentRow) -> None:
        """Bring a row's tensors up to its step count, wherever it is; in a turn on the device."""
        self._rows.sync(row.state)

    def step(self) -> None:
        """See Stepper."""
        losses = self._rows.step(self.pieces)
        for row, loss, is_finite in zip(self._inside, losses.values, losses.are_finite, strict=True):
            if not is_finite:
                what = (
                    "the loss is"
                    if loss != loss or abs(loss) == float("inf")
                    else "a gradient is no number; the loss is"
                )
                row.error = NonFinite(f"{what} {loss} after {row.state.step_count} iterations")

    def shrink(self) -> bool:
        """See Stepper. Fewer rows in a pass, then fewer views of the one, at last the picture decoded twice."""
        self._is_shrunk = True
        rows, cuts = min(self.pieces.rows or self._max_rows, len(self._inside) or 1), self.pieces.cuts or self._cuts
        if rows > 1:
            self.pieces = replace(self.pieces, rows=rows // 2)
        elif cuts > 1:
            self.pieces = replace(self.pieces, rows=1, cuts=cuts // 2)
        elif not self.pieces.decodes_twice:
            self.pieces = replace(self.pieces, rows=1, cuts=1, decodes_twice=True)
        else:
            return False
        return True

    def empty(self) -> None:
        """See Stepper. What will be free next time is another question."""
        self._is_shrunk = False


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
