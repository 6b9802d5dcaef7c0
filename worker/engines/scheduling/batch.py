"""One running batch that jobs share: their rows come in, step together, and leave between two steps. No torch.

A thread of the batch's own steps them (worker.engines.scheduling.driver); who is in when is the scheduler's
(worker.engines.scheduling.scheduler). Here is the side of a job: its thread waits for its rows, and decodes, scores and
encodes what is finished while the others go on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, TypeVar

from worker.engines.scheduling.device_lock import DeviceLock
from worker.engines.scheduling.driver import Driver
from worker.engines.scheduling.request import Request
from worker.engines.scheduling.stepper import BatchEvents, Row, Stepper, Turn

__all__ = ["Batch"]

R = TypeVar("R", bound=Row)


class Batch(Generic[R]):
    """`turn` gives time on the device and translates what the models and torch raise."""

    def __init__(
        self,
        kind: str,
        stepper: Stepper[R],
        turn: Callable[[str], AbstractContextManager[Turn]],
        device_lock: DeviceLock,
        events: BatchEvents | None = None,
        linger_s: float = 0.0,
    ) -> None:
        """linger_s: how long a batch that was idle waits for more rows than the first."""
        self._device_lock = device_lock
        self._driver = Driver(kind, stepper, turn, events or BatchEvents(), linger_s)
        self.scheduler = self._driver.scheduler  # to look at
        self._changed = self._driver.changed

    @contextmanager
    def joined(
        self,
        rows: Sequence[R],
        on_step: Callable[[], None],
        is_due: Callable[[], bool] = lambda: False,
        max_rows: int | None = None,
    ) -> Iterator[Iterator[list[R]]]:
        """Step `rows` to their ends. Gives an iterator over the turns in which they moved: those that were finished in
        it. The rest go on meanwhile; rows that were due stand still until the next turn is asked for. Afterwards,
        however it ends, all of them are out of the batch.

        `on_step` runs in the batch's thread, with every step. The iterator raises what it raises, a row's own error, or
        what failed for the whole batch; never before all that was finished is handed over.
        """
        request = Request(rows, len(rows) if max_rows is None else max_rows, on_step, is_due, time.monotonic())
        driver = self._join(request)
        try:
            yield self._turns_of(request, driver)
        finally:
            self._leave(request, driver)

    def _turns_of(self, request: Request[R], driver: threading.Thread) -> Iterator[list[R]]:
        while not request.is_over or request.finished or request.error:
            yield self._next_finished(request, driver)

    def _join(self, request: Request[R]) -> threading.Thread:
        with self._changed:
            self.scheduler.requests.append(request)
            self._changed.notify_all()
            return self._driver.started()

    def _leave(self, request: Request[R], driver: threading.Thread) -> None:
        with self._changed:
            self.scheduler.requests.remove(request)
            self._changed.notify_all()
            with self._device_lock.behind(driver, lambda: True):
                self._changed.wait_for(lambda: self.scheduler.are_off_device(request.rows))

    def _next_finished(self, request: Request[R], driver: threading.Thread) -> list[R]:
        """Wait until there is something to see; the rows that are finished now."""
        with self._changed:
            if not request.is_notified:  # else the rows may have been due since the last turn, and nobody has seen them
                request.is_paused = False
                self._changed.notify_all()
            with self._device_lock.behind(driver, lambda: bool(request.running)):
                self._changed.wait_for(
                    lambda: request.is_notified and self.scheduler.are_off_device((*request.finished, *request.waiting))
                )
            return request.take_finished()
