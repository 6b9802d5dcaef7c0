"""Which rows of which job run in the next step. No threads, no locks, no clock, no torch.

Jobs share the slots fairly: one that comes late gets its part before the next step, from whoever has the most. What is
decided here, the driver carries out on the device, a little later: so `running` says which rows are to be in a step,
`on_device` which rows the stepper has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from worker.engines.scheduling.request import Request
from worker.engines.scheduling.stepper import Row

__all__ = ["Changes", "Scheduler"]

R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Changes(Generic[R]):
    """What one call of schedule() did."""

    started: list[Request[R]] = field(default_factory=list)  # once for each row that runs for the first time
    evicted: list[Request[R]] = field(default_factory=list)  # once for each row that made room


class Scheduler(Generic[R]):
    """Not safe for two threads at once: whoever shares one holds a lock."""

    def __init__(self) -> None:
        self.requests: list[Request[R]] = []
        self.on_device: dict[R, None] = {}  # a set that keeps its order

    # --- which rows run ------------------------------------------------------------------------------------------

    def schedule(self, slots: int) -> Changes[R]:
        """Give every request that wants one its fair part of the slots."""
        changes = Changes[R]()
        free = slots - self.rows_running
        while free < 0:
            self._evict(self._richest(), changes)
            free += 1
        while wanting := [request for request in self.requests if request.wants_slot]:
            poorest = min(wanting, key=_rows_running)
            if free:
                free -= 1
            else:
                richest = self._richest()
                if len(richest.running) - len(poorest.running) < 2:  # a swap would only turn the difference round
                    break
                self._evict(richest, changes)
            if poorest.admit():
                changes.started.append(poorest)
        return changes

    def update(self) -> bool:
        """After a step: look at every request. Whether a job's thread is to be told before the next one."""
        news = [request.update() for request in self.requests]  # of all of them, before any is asked for
        return any(news)

    def fail(self, error: BaseException) -> None:
        """End every request with rows in the step that failed; where there is none, every one that waits."""
        for request in [request for request in self.requests if request.running] or self.requests:
            request.end(error)

    def notify_running(self) -> None:
        """After a turn: jobs with rows in it may look where these are."""
        for request in self.requests:
            request.is_notified |= bool(request.running)

    def _richest(self) -> Request[R]:
        return max(self.requests, key=_rows_running)

    @staticmethod
    def _evict(request: Request[R], changes: Changes[R]) -> None:
        request.evict()
        changes.evicted.append(request)

    # --- what there is to do -------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to step, to let in or to let out."""
        return bool(self.on_device) or any(request.running or request.wants_slot for request in self.requests)

    @property
    def rows_running(self) -> int:
        """Of all requests."""
        return sum(len(request.running) for request in self.requests)

    @property
    def rows_left(self) -> int:
        """Of all requests, running or waiting."""
        return sum(len(request.waiting) + len(request.running) for request in self.requests)

    # --- which rows are on the device ----------------------------------------------------------------------------

    def leaving(self) -> list[R]:
        """Rows that the stepper has and that do not run any more."""
        running = self._running()
        return [row for row in self.on_device if row not in running]

    def coming(self) -> list[R]:
        """Rows that run and that the stepper does not have yet."""
        return [row for row in self._running() if row not in self.on_device]

    def put_on_device(self, rows: Iterable[R]) -> None:
        """Counted from before the stepper takes them in, so that a job that leaves meanwhile waits for them."""
        self.on_device |= dict.fromkeys(rows)

    def take_off_device(self, rows: Iterable[R]) -> None:
        """The stepper has given them back, or never took them in."""
        for row in rows:
            del self.on_device[row]

    def are_off_device(self, rows: Iterable[R]) -> bool:
        """Whether these hold their own state."""
        return not any(row in self.on_device for row in rows)

    def _running(self) -> dict[R, None]:
        return {row: None for request in self.requests for row in request.running}


def _rows_running(request: Request[R]) -> int:
    return len(request.running)
