"""The thread that steps a batch's rows, turn by turn on the device, beside whatever else runs there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from typing import Generic, TypeVar

from shared.errors import OutOfMemory
from worker.engines.scheduling.scheduler import Scheduler
from worker.engines.scheduling.stepper import BatchEvents, Row, Stepper, Turn

__all__ = ["Driver"]

IDLE_S = 5.0  # a batch without rows keeps its thread so long, and then what it holds on the device is given up

R = TypeVar("R", bound=Row)


class Driver(Generic[R]):
    """`changed` guards `scheduler`, and is notified whenever a thread may find there what it waits for."""

    def __init__(
        self,
        kind: str,
        stepper: Stepper[R],
        turn: Callable[[str], AbstractContextManager[Turn]],
        events: BatchEvents,
        linger_s: float,
    ) -> None:
        """turn: see Batch. linger_s: how long a batch that was idle waits for more rows than the first."""
        self.scheduler = Scheduler[R]()
        self.changed = threading.Condition()
        self._kind = kind
        self._stepper = stepper
        self._turn = turn
        self._events = events
        self._linger_s = linger_s
        self._thread: threading.Thread | None = None

    def started(self) -> threading.Thread:
        """The thread, which does not end while there are requests. The caller holds `changed`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"batch-{self._kind}", daemon=True)
            self._thread.start()
        return self._thread

    def _run(self) -> None:
        while self._has_work():
            try:
                with self._turn(self._kind) as turn:
                    while self._round(turn) and turn.has_time:
                        pass
            except OutOfMemory as error:
                self._shrink(error)
            except BaseException as error:
                self._fail(error)
            with self.changed:
                self.scheduler.notify_running()
                self.changed.notify_all()

    def _has_work(self) -> bool:
        """Wait for something to do; False when there was nothing for so long that this thread may end."""
        scheduler = self.scheduler
        with self.changed:
            if scheduler.is_busy:
                return True
            if self.changed.wait_for(lambda: scheduler.is_busy, IDLE_S):
                if self._linger_s:
                    self.changed.wait_for(lambda: scheduler.rows_left >= self._stepper.slots, self._linger_s)
                return True
        with self._turn(self._kind), self.changed:
            if scheduler.is_busy or scheduler.requests:
                return True
            self._stepper.empty()
            self._thread = None
            return False

    # --- one round: rows go out and come in, one step ------------------------------------------------------------

    def _round(self, turn: Turn) -> bool:
        """Whether the turn may go on: there is something left to step, and no job's thread waits to be told."""
        self._schedule()
        self._remove()
        self._admit()
        rows = self.scheduler.rows_running
        if not rows:
            return False
        self._events.on_rows(self._kind, rows, self._stepper.slots)
        self._stepper.step()
        turn.stepped()
        with self.changed:
            has_news = self.scheduler.update()
        self._remove()
        return not has_news

    def _schedule(self) -> None:
        with self.changed:
            changes = self.scheduler.schedule(self._stepper.slots)
        for _ in changes.evicted:
            self._events.on_evicted(self._kind)
        for request in changes.started:
            self._events.on_admitted(self._kind, time.monotonic() - request.asked_at)

    def _remove(self) -> None:
        with self.changed:
            leaving = self.scheduler.leaving()
        if leaving:
            self._stepper.leave(leaving)
            self._take_off_device(leaving)

    def _admit(self) -> None:
        with self.changed:
            coming = self.scheduler.coming()
            self.scheduler.put_on_device(coming)
        if coming:
            try:
                self._stepper.admit(coming)
            except BaseException:
                self._take_off_device(coming)
                raise

    def _take_off_device(self, rows: Iterable[R]) -> None:
        with self.changed:
            self.scheduler.take_off_device(rows)
            self.changed.notify_all()

    # --- what goes wrong -----------------------------------------------------------------------------------------

    def _shrink(self, error: OutOfMemory) -> None:
        """Go on with less, or give up."""
        with suppress(OutOfMemory):
            if self._stepper.shrink():
                self._events.on_shrunk(self._kind)
                return
        self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self.changed:
            self.scheduler.fail(error)
