"""What ends a run before its time: a cause told from outside, its deadline, or the end of its lease."""

from __future__ import annotations

import threading
import time

from shared.errors import Cancelled, DeadlineExceeded, Draining, LeaseLost, Stopped, Yielded
from shared.records.job import Claim
from shared.store.jobs import Signal

__all__ = ["StopSignal"]

# A cause replaces only weaker ones: a job that another attempt owns is not ours to cancel or to give back.
_RANK: dict[type[Stopped], int] = {Yielded: 0, Draining: 1, Cancelled: 2, LeaseLost: 3}


class StopSignal:
    """Thread-safe. Times are local monotonic ones."""

    def __init__(self, claim: Claim, claimed_at: float, lease_s: float) -> None:
        self._lease_s = lease_s
        self._lease_until = claimed_at + lease_s
        self._deadline = _deadline(claim, claimed_at)
        self._cause: Stopped | None = None
        self._set_at = 0.0
        self._interrupted = threading.Event()

    @property
    def lease_until(self) -> float:
        """Until then the job is surely ours."""
        return self._lease_until

    @property
    def set_at(self) -> float:
        """When the cause that counts came."""
        return self._set_at

    def set(self, cause: Stopped) -> None:
        """Make the next check raise, and wake whoever waits. A weaker cause does not replace a stronger one."""
        if self._cause is None or _RANK[type(cause)] > _RANK[type(self._cause)]:
            self._cause = cause
            self._set_at = time.monotonic()
            self._interrupted.set()

    def is_set_by(self, cause: type[Stopped]) -> bool:
        """Whether that is what stops the run."""
        return isinstance(self._cause, cause)

    def check(self, now: float, keep_through: tuple[type[Stopped], ...] = ()) -> None:
        """Raise what stops the run at `now`, if anything does; causes of the classes in `keep_through` are let pass."""
        if self._cause is not None and not isinstance(self._cause, keep_through):
            raise self._cause
        if self._deadline is not None and now > self._deadline and DeadlineExceeded not in keep_through:
            raise DeadlineExceeded("the deadline passed while the job ran")

    def renewed(self, at: float, signal: Signal) -> None:
        """Take in what the store answered to a renewal of the lease that was sent at `at`."""
        if signal is Signal.LOST:
            self.set(LeaseLost("another attempt owns this job"))
            return
        self._lease_until = max(self._lease_until, at + self._lease_s)
        if signal is Signal.CANCEL:
            self.set(Cancelled("cancelled by the caller"))
        elif signal is Signal.YIELD:
            self.set(Yielded("paused, or called away for a job of high priority"))

    def wait(self, seconds: float) -> None:
        """Sleep, but not past an interruption."""
        if self._interrupted.wait(seconds):
            self._interrupted.clear()


def _deadline(claim: Claim, claimed_at: float) -> float | None:
    if claim.deadline_at_ms is None:
        return None
    return claimed_at + (claim.deadline_at_ms - claim.claimed_at_ms) / 1000
