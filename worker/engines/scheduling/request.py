"""One job's rows in a batch: which of them wait, run and are finished, and what the job's thread is to be told."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from shared.errors import EngineError, Stopped
from worker.engines.scheduling.stepper import Row

__all__ = ["Request"]

R = TypeVar("R", bound=Row)


@dataclass(eq=False)
class Request(Generic[R]):
    """A row waits, runs, or is finished. Once there is an error none runs, and those that wait never will."""

    rows: Sequence[R]
    max_rows: int  # that may run at once
    on_step: Callable[[], None] = lambda: None  # called after each step; raises what stops the job
    is_due: Callable[[], bool] = lambda: False  # asked after each step: must the job's thread see the rows as they are?
    asked_at: float = 0.0  # local monotonic time
    waiting: deque[R] = field(init=False)
    running: list[R] = field(default_factory=list)  # to be in the next step
    finished: list[R] = field(default_factory=list)  # not handed over yet
    error: BaseException | None = None
    is_paused: bool = False  # its rows stand still until the job's thread has seen them
    is_notified: bool = False  # there is something for the job's thread to see
    _started: set[R] = field(init=False, default_factory=set)  # rows that have run before

    def __post_init__(self) -> None:
        self.waiting = deque(self.rows)

    @property
    def is_over(self) -> bool:
        """Whether no row is left to step."""
        return self.error is not None or not (self.waiting or self.running)

    @property
    def wants_slot(self) -> bool:
        """Whether one more of its rows may run."""
        return bool(self.waiting) and not self.is_paused and self.error is None and len(self.running) < self.max_rows

    def admit(self) -> bool:
        """Let the next row run; whether that is the first time."""
        row = self.waiting.popleft()
        self.running.append(row)
        is_first = row not in self._started
        self._started.add(row)
        return is_first

    def evict(self) -> None:
        """The row that came last goes back to the front of those that wait."""
        self.waiting.appendleft(self.running.pop())

    def update(self) -> bool:
        """After a step: rows may be at their ends, the job stopped, or its rows due. Whether its thread must know."""
        rows = len(self.running)
        broken = self._sort_out()
        error = self._stop() or broken
        has_news = self.is_paused or error is not None or len(self.running) < rows
        if error is not None:
            self.end(error)
        elif self.running and self.is_due():
            self._pause()
            has_news = True
        self.is_notified |= has_news
        return has_news

    def end(self, error: BaseException) -> None:
        """No row steps on; the first error is the one that counts."""
        self.running = []
        self.error = self.error or error
        self.is_notified = True

    def take_finished(self) -> list[R]:
        """What is to be handed over; raises the error only when that is nothing."""
        finished, self.finished = self.finished, []
        if self.error is not None and not finished:
            raise copy.copy(self.error) from self.error
        self.is_notified = self.error is not None
        return finished

    def _sort_out(self) -> EngineError | None:
        """Rows that are done are finished, rows in error run no longer; the first such error."""
        broken, running = None, []
        for row in self.running:
            if row.error is not None:
                broken = broken or row.error
            elif row.done:
                self.finished.append(row)
            else:
                running.append(row)
        self.running = running
        return broken

    def _stop(self) -> Stopped | None:
        try:
            self.on_step()
        except Stopped as stop:
            return stop
        return None

    def _pause(self) -> None:
        self.is_paused = True
        self.waiting.extendleft(reversed(self.running))
        self.running = []
