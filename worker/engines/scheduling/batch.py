"""One running batch that jobs share: their rows come in, step together, and leave between two steps. No torch.

A thread of the batch's own drives it while there are rows, turn by turn on the device, beside whatever else runs there.
Jobs' threads wait for their rows; what is finished they decode, score and encode while the others go on. Slots are
shared fairly: a job that comes late gets its part before the next step, from whoever holds the most.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from shared.errors import EngineError, OutOfMemory, Stopped
from worker.engines.scheduling.device_lock import DeviceLock

__all__ = ["Batch", "BatchEvents", "Request", "Row", "Stepper"]

IDLE_S = 5.0  # a batch without rows keeps its thread so long, and then what it holds on the device is given up


class Row(Protocol):
    """What steps: a sequence, a latent, a sample. Equal to itself alone; out of its slot it holds its whole state."""

    @property
    def done(self) -> bool:
        """Whether all its steps are taken."""

    @property
    def error(self) -> EngineError | None:
        """What makes it end before that, its neighbours not: numbers that are no numbers."""


R = TypeVar("R", bound=Row)
T_contra = TypeVar("T_contra", bound=Row, contravariant=True)


class Stepper(Protocol[T_contra]):
    """The device side of a batch. Called by one thread at a time, in its turn on the device."""

    @property
    def slots(self) -> int:
        """How many rows fit, by the memory that is there; at least 1."""

    def admit(self, rows: Sequence[T_contra]) -> None:
        """Give rows a slot; new ones, and such as were inside before and go on from where they left."""

    def leave(self, rows: Sequence[T_contra]) -> None:
        """Take rows out. What is needed to go on, or to be decoded, is with the row from here on."""

    def step(self) -> None:
        """One step of every row inside. Where it raises, the step can be taken again."""

    def shrink(self) -> bool:
        """After the device was full: hold or compute less at a time from here on; False where that is not possible."""

    def empty(self) -> None:
        """No rows for a while: give back the memory of the slots."""


class Turn(Protocol):
    """Time on the device; see worker.engines.scheduling.device."""

    @property
    def has_time(self) -> bool:
        """Whether another step may follow."""

    def stepped(self) -> None:
        """A step was taken."""


@dataclass(frozen=True)
class BatchEvents:
    """Who hears of what goes on in batches; each is told the kind first."""

    on_rows: Callable[[str, int, int], None] = lambda _kind, _rows, _slots: None  # before each step
    on_admitted: Callable[[str, float], None] = lambda _kind, _seconds: None  # a row got its first slot
    on_evicted: Callable[[str], None] = lambda _kind: None  # a row made room for another job's
    on_shrunk: Callable[[str], None] = lambda _kind: None  # the device was full; the batch goes on with less
    on_cache: Callable[[str, int, int], None] = lambda _cache, _hits, _misses: None  # not the kind, the cache's name
    on_memory: Callable[[str, int, int], None] = lambda _kind, _predicted, _used: None  # bytes, when rows came in


@dataclass(eq=False)
class Request(Generic[R]):
    """One job's part in a batch. `on_step` is called after each step, and raises what stops the job; `is_due` is asked
    then whether the rows must stand still, as they are now, until the job's thread has seen them."""

    rows: Sequence[R]  # all of them, wherever they are
    on_step: Callable[[], None]
    is_due: Callable[[], bool]
    max_rows: int  # rows it may have inside at once
    asked_at: float = field(default_factory=time.monotonic)
    waiting: deque[R] = field(init=False)
    fresh: set[int] = field(init=False)  # ids of rows that never had a slot
    inside: list[R] = field(default_factory=list)
    finished: list[R] = field(default_factory=list)
    error: BaseException | None = None
    is_paused: bool = False
    is_notified: bool = False

    def __post_init__(self) -> None:
        self.waiting = deque(self.rows)
        self.fresh = {id(row) for row in self.rows}

    @property
    def is_over(self) -> bool:
        """Whether no row is left to step."""
        return self.error is not None or not (self.waiting or self.inside)

    @property
    def wants_slot(self) -> bool:
        """Whether one more of its rows may come in."""
        return bool(self.waiting) and not self.is_paused and self.error is None and len(self.inside) < self.max_rows


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
        self.stepper = stepper
        self._linger_s = linger_s
        self._kind = kind
        self._turn = turn
        self._device_lock = device_lock
        self._events = events or BatchEvents()
        self._changed = threading.Condition()
        self._requests: list[Request[R]] = []
        self._on_device: dict[int, R] = {}  # by id: whom the stepper has; requests say whom it should have
        self._driver: threading.Thread | None = None

    # --- a job's side --------------------------------------------------------------------------------------------

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
        request = Request(rows, on_step, is_due, len(rows) if max_rows is None else max_rows)
        self._join(request)
        try:
            yield self._turns_of(request)
        finally:
            self._leave(request)

    def _turns_of(self, request: Request[R]) -> Iterator[list[R]]:
        while not request.is_over or request.finished or request.error:
            yield self._next_finished(request)

    def _join(self, request: Request[R]) -> None:
        with self._changed:
            self._requests.append(request)
            if self._driver is None:
                self._driver = threading.Thread(target=self._drive, name=f"batch-{self._kind}", daemon=True)
                self._driver.start()
            self._changed.notify_all()

    def _leave(self, request: Request[R]) -> None:
        with self._changed:
            self._requests.remove(request)
            self._changed.notify_all()
            with self._behind(lambda: True):
                self._changed.wait_for(lambda: self._are_out(request.rows))

    def _next_finished(self, request: Request[R]) -> list[R]:
        """Wait until the batch notifies the request; the rows that are finished now."""
        with self._changed:
            if not request.is_notified:  # else the rows may have been due since the last turn, and nobody has seen them
                request.is_paused = False
                self._changed.notify_all()
            with self._behind(lambda: bool(request.inside)):
                self._changed.wait_for(
                    lambda: request.is_notified and self._are_out((*request.finished, *request.waiting))
                )
            finished, request.finished = request.finished, []
            if request.error is not None and not finished:
                raise copy.copy(request.error) from request.error
            request.is_notified = request.error is not None
            return finished

    def _are_out(self, rows: Iterable[R]) -> bool:
        """Whether these hold their own state: unscheduled at once, off the device a little later."""
        return not any(id(row) in self._on_device for row in rows)

    def _behind(self, is_on_device: Callable[[], bool]) -> AbstractContextManager[None]:
        assert self._driver is not None
        return self._device_lock.behind(self._driver, is_on_device)

    # --- the driver's side ---------------------------------------------------------------------------------------

    def _drive(self) -> None:
        while self._has_work():
            try:
                with self._turn(self._kind) as turn:
                    while self._round(turn) and turn.has_time:
                        pass
            except OutOfMemory as error:
                self._shrink(error)
            except BaseException as error:
                self._fail(error)
            self._notify()

    def _has_work(self) -> bool:
        """Wait for something to do; False when there was nothing for so long that this thread may end."""
        with self._changed:
            if self._is_busy():
                return True
            if self._changed.wait_for(self._is_busy, IDLE_S):
                if self._linger_s:
                    self._changed.wait_for(self._is_full, self._linger_s)
                return True
        with self._turn(self._kind), self._changed:
            if self._is_busy() or self._requests:
                return True
            self.stepper.empty()
            self._driver = None
            return False

    def _is_busy(self) -> bool:
        return bool(self._on_device) or any(request.inside or request.wants_slot for request in self._requests)

    def _is_full(self) -> bool:
        return sum(len(request.waiting) + len(request.inside) for request in self._requests) >= self.stepper.slots

    def _round(self, turn: Turn) -> bool:
        """Let rows out and in, take one step, look at every request. Whether the turn may go on: there is something
        left to step, and nobody waits to be notified."""
        self._apply_schedule()
        count = sum(len(request.inside) for request in self._requests)
        if not count:
            return False
        self._events.on_rows(self._kind, count, self.stepper.slots)
        self.stepper.step()
        turn.stepped()
        is_urgent = self._check_requests()
        self._remove()
        return not is_urgent

    def _apply_schedule(self) -> None:
        with self._changed:
            self._schedule()
        self._remove()
        self._admit()

    def _remove(self) -> None:
        """Whom the stepper has and should not have."""
        with self._changed:
            scheduled = self._scheduled()
            leaving = [row for key, row in self._on_device.items() if key not in scheduled]
        if leaving:
            self.stepper.leave(leaving)
            self._mark_off_device(leaving)

    def _admit(self) -> None:
        """The other way round. A row counts as on the device from before it is: whoever leaves meanwhile waits for
        it."""
        with self._changed:
            coming = {key: row for key, row in self._scheduled().items() if key not in self._on_device}
            self._on_device |= coming
        if coming:
            try:
                self.stepper.admit(list(coming.values()))
            except BaseException:
                self._mark_off_device(coming.values())
                raise

    def _mark_off_device(self, rows: Iterable[R]) -> None:
        """These are not on the device."""
        with self._changed:
            for row in rows:
                del self._on_device[id(row)]
            self._changed.notify_all()

    def _scheduled(self) -> dict[int, R]:
        return {id(row): row for request in self._requests for row in request.inside}

    def _schedule(self) -> None:
        """Give every request that wants one its fair part of the slots; _apply_schedule() makes it true."""
        free = self.stepper.slots - sum(len(request.inside) for request in self._requests)
        while free < 0:
            self._evict(max(self._requests, key=_rows_inside))
            free += 1
        while wanting := [request for request in self._requests if request.wants_slot]:
            poorest = min(wanting, key=_rows_inside)
            if free:
                free -= 1
            else:
                richest = max(self._requests, key=_rows_inside)
                if _rows_inside(richest) - _rows_inside(poorest) < 2:
                    break
                self._evict(richest)
            self._enter(poorest)

    def _enter(self, request: Request[R]) -> None:
        row = request.waiting.popleft()
        request.inside.append(row)
        if id(row) in request.fresh:
            request.fresh.remove(id(row))
            self._events.on_admitted(self._kind, time.monotonic() - request.asked_at)

    def _evict(self, request: Request[R]) -> None:
        """The row that came last goes back to the front of those that wait."""
        request.waiting.appendleft(request.inside.pop())
        self._events.on_evicted(self._kind)

    def _check_requests(self) -> bool:
        """After a step: whose rows are at their end, who is stopped, whose rows are due. Whether anybody is to be
        notified before the next step."""
        with self._changed:
            notified = [self._check(request) for request in self._requests]
            return any(notified)

    def _check(self, request: Request[R]) -> bool:
        ended = [row for row in request.inside if row.done or row.error is not None]
        request.inside = [row for row in request.inside if row not in ended]
        request.finished += [row for row in ended if row.error is None]
        error = _stop_of(request) or next((row.error for row in ended if row.error is not None), None)
        if error is not None:
            self._end(request, error)
        elif request.inside and request.is_due():
            request.is_paused = True
            request.waiting.extendleft(reversed(request.inside))
            request.inside = []
        needs_notice = bool(ended) or request.is_paused or error is not None
        request.is_notified |= needs_notice
        return needs_notice

    def _end(self, request: Request[R], error: BaseException) -> None:
        request.inside = []
        request.error = request.error or error
        request.is_notified = True

    def _shrink(self, error: OutOfMemory) -> None:
        """Go on with less, or give up."""
        with suppress(OutOfMemory):
            if self.stepper.shrink():
                self._events.on_shrunk(self._kind)
                return
        self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """What nobody in particular is to blame for: everybody inside is told; where that is nobody, whoever waits."""
        with self._changed:
            for request in [request for request in self._requests if request.inside] or self._requests:
                self._end(request, error)

    def _notify(self) -> None:
        """After a turn: whoever is in it may report where it is."""
        with self._changed:
            for request in self._requests:
                request.is_notified |= bool(request.inside)
            self._changed.notify_all()


def _rows_inside(request: Request[R]) -> int:
    return len(request.inside)


def _stop_of(request: Request[R]) -> Stopped | None:
    try:
        request.on_step()
    except Stopped as stop:
        return stop
    return None
