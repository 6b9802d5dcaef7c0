"""One run's place for a snapshot: what it offers to save, what is on its way, what was noted last."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from shared.records.job import SavedRun

__all__ = ["Offer", "SnapshotSlot"]


@dataclass(frozen=True)
class Offer:
    """The run can be saved as it is after `step`, by calling `make` from its own thread."""

    step: int
    make: Callable[[], bytes]


class SnapshotSlot:
    """At most one snapshot is between started() and ended(), besides the last one of a run that goes back."""

    def __init__(self, earlier: SavedRun | None, claimed_at: float) -> None:
        self._earlier = earlier  # an earlier attempt's
        self._own: SavedRun | None = None
        self._offer: Offer | None = None
        self._is_in_flight = False
        self._ended_at = claimed_at  # local monotonic time of the last try, good or not

    @property
    def offer(self) -> Offer | None:
        """The latest, while the engine runs."""
        return self._offer

    @property
    def saved(self) -> SavedRun | None:
        """The last one that was noted, by this attempt or an earlier one."""
        return self._own or self._earlier

    def offered(self, step: int, make: Callable[[], bytes]) -> None:
        """The engine offers to save the run as it is now."""
        self._offer = Offer(step, make)

    def withdraw(self) -> None:
        """The engine is done: what the offer holds on the device may go."""
        self._offer = None

    def is_due(self, every_s: float) -> bool:
        """Whether none is on its way and the last try is so long ago."""
        return not self._is_in_flight and time.monotonic() - self._ended_at >= every_s

    def has_saved(self, step: int) -> bool:
        """Whether this attempt saved that very step last."""
        return self._own is not None and self._own.step == step

    def started(self) -> None:
        """One is on its way."""
        self._is_in_flight = True

    def noted(self, saved: SavedRun) -> SavedRun | None:
        """The record names this one now; the one that it replaces."""
        before, self._own = self.saved, saved
        return before

    def ended(self) -> None:
        """The try is over, good or not."""
        self._ended_at = time.monotonic()
        self._is_in_flight = False
