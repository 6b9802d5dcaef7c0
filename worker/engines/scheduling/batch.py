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
from worker.engines.scheduling.device_lock import Turns

__all__ = ["Batch", "BatchEvents", "Member", "Row", "Stepper"]

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
class Member(Generic[R]):
    """One job's part in a batch. `on_step` is called after each step, and raises what stops the job; `is_due` is asked
    then whether the rows must stand still, as they are now, until the job's thread has seen them."""

    rows: Sequence[R]  # all of them, wherever they are
    on_step: Callable[[], None]
    is_due: Callable[[], bool]
    most: int  # rows it may have inside at once
    asked_at: float = field(default_factory=time.monotonic)
    waiting: deque[R] = field(init=False)
    fresh: set[int] = field(init=False)  # ids of rows that never had a slot
    inside: list[R] = field(default_factory=list)
    finished: list[R] = field(default_factory=list)
    error: BaseException | None = None
    is_paused: bool = False
    has_news: bool = False

    def __post_init__(self) -> None:
        self.waiting = deque(self.rows)
        self.fresh = {id(row) for row in self.rows}

    @property
    def is_over(self) -> bool:
        """Whether no row is left to step."""
        return self.error is not None or not (self.waiting or self.inside)

    @property
    def wants(self) -> bool:
        """Whether one more of its rows may come in."""
        return bool(self.waiting) and not self.is_paused and self.error is None and len(self.inside) < self.most


class Batch(Generic[R]):
    """`turn` gives time on the device and translates what the models and torch raise."""

    def __init__(
        self,
        kind: str,
        stepper: Stepper[R],
        turn: Callable[[str], AbstractContextManager[Turn]],
        turns: Turns,
        events: BatchEvents | None = None,
        linger_s: float = 0.0,
    ) -> None:
        """linger_s: how long a batch that was idle waits for more rows than the first."""
        self.stepper = stepper
        self._linger_s = linger_s
        self._kind = kind
        self._turn = turn
        self._turns = turns
        self._events = events or BatchEvents()
        self._changed = threading.Condition()
        self._members: list[Member[R]] = []
        self._aboard: dict[int, R] = {}  # by id: whom the stepper has; the members' books say whom it should have
        self._driver: threading.Thread | None = None

    # --- a job's side --------------------------------------------------------------------------------------------

    @contextmanager
    def joined(
        self,
        rows: Sequence[R],
        on_step: Callable[[], None],
        is_due: Callable[[], bool] = lambda: False,
        most: int | None = None,
    ) -> Iterator[Iterator[list[R]]]:
        """Step `rows` to their ends. Gives an iterator over the turns in which they moved: those that were finished in
        it. The rest go on meanwhile; rows that were due stand still until the next turn is asked for. Afterwards,
        however it ends, all of them are out of the batch.

        `on_step` runs in the batch's thread, with every step. The iterator raises what it raises, a row's own error, or
        what failed for the whole batch; never before all that was finished is handed over.
        """
        member = Member(rows, on_step, is_due, len(rows) if most is None else most)
        self._join(member)
        try:
            yield self._turns_of(member)
        finally:
            self._quit(member)

    def _turns_of(self, member: Member[R]) -> Iterator[list[R]]:
        while not member.is_over or member.finished or member.error:
            yield self._news(member)

    def _join(self, member: Member[R]) -> None:
        with self._changed:
            self._members.append(member)
            if self._driver is None:
                self._driver = threading.Thread(target=self._drive, name=f"batch-{self._kind}", daemon=True)
                self._driver.start()
            self._changed.notify_all()

    def _quit(self, member: Member[R]) -> None:
        with self._changed:
            self._members.remove(member)
            self._changed.notify_all()
            with self._behind(lambda: True):
                self._changed.wait_for(lambda: self._are_out(member.rows))

    def _news(self, member: Member[R]) -> list[R]:
        """Wait until there is something to tell; the rows that are finished now."""
        with self._changed:
            if not member.has_news:  # else the rows may have been due since the last turn, and nobody has seen them
                member.is_paused = False
                self._changed.notify_all()
            with self._behind(lambda: bool(member.inside)):
                self._changed.wait_for(lambda: member.has_news and self._are_out((*member.finished, *member.waiting)))
            finished, member.finished = member.finished, []
            if member.error is not None and not finished:
                raise copy.copy(member.error) from member.error
            member.has_news = member.error is not None
            return finished

    def _are_out(self, rows: Iterable[R]) -> bool:
        """Whether these hold their own state: out of the books they are at once, off the device a little later."""
        return not any(id(row) in self._aboard for row in rows)

    def _behind(self, is_aboard: Callable[[], bool]) -> AbstractContextManager[None]:
        assert self._driver is not None
        return self._turns.behind(self._driver, is_aboard)

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
            self._tell()

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
            if self._is_busy() or self._members:
                return True
            self.stepper.empty()
            self._driver = None
            return False

    def _is_busy(self) -> bool:
        return bool(self._aboard) or any(member.inside or member.wants for member in self._members)

    def _is_full(self) -> bool:
        return sum(len(member.waiting) + len(member.inside) for member in self._members) >= self.stepper.slots

    def _round(self, turn: Turn) -> bool:
        """Let rows out and in, take one step, look at every member. Whether the turn may go on: there is something left
        to step, and nobody waits to be told."""
        self._exchange()
        count = sum(len(member.inside) for member in self._members)
        if not count:
            return False
        self._events.on_rows(self._kind, count, self.stepper.slots)
        self.stepper.step()
        turn.stepped()
        is_urgent = self._look()
        self._let_out()
        return not is_urgent

    def _exchange(self) -> None:
        with self._changed:
            self._share_out()
        self._let_out()
        self._let_in()

    def _let_out(self) -> None:
        """Whom the stepper has and should not have."""
        with self._changed:
            booked = self._booked()
            leaving = [row for key, row in self._aboard.items() if key not in booked]
        if leaving:
            self.stepper.leave(leaving)
            self._settle(leaving)

    def _let_in(self) -> None:
        """The other way round. A row counts as aboard from before it is: whoever quits meanwhile waits for it."""
        with self._changed:
            coming = {key: row for key, row in self._booked().items() if key not in self._aboard}
            self._aboard |= coming
        if coming:
            try:
                self.stepper.admit(list(coming.values()))
            except BaseException:
                self._settle(coming.values())
                raise

    def _settle(self, rows: Iterable[R]) -> None:
        """These are not aboard."""
        with self._changed:
            for row in rows:
                del self._aboard[id(row)]
            self._changed.notify_all()

    def _booked(self) -> dict[int, R]:
        return {id(row): row for member in self._members for row in member.inside}

    def _share_out(self) -> None:
        """Give every member that wants one its fair part of the slots, in the books; _exchange() makes it true."""
        free = self.stepper.slots - sum(len(member.inside) for member in self._members)
        while free < 0:
            self._evict(max(self._members, key=_held))
            free += 1
        while wanting := [member for member in self._members if member.wants]:
            poorest = min(wanting, key=_held)
            if free:
                free -= 1
            else:
                richest = max(self._members, key=_held)
                if _held(richest) - _held(poorest) < 2:
                    break
                self._evict(richest)
            self._enter(poorest)

    def _enter(self, member: Member[R]) -> None:
        row = member.waiting.popleft()
        member.inside.append(row)
        if id(row) in member.fresh:
            member.fresh.remove(id(row))
            self._events.on_admitted(self._kind, time.monotonic() - member.asked_at)

    def _evict(self, member: Member[R]) -> None:
        """The row that came last goes back to the front of those that wait."""
        member.waiting.appendleft(member.inside.pop())
        self._events.on_evicted(self._kind)

    def _look(self) -> bool:
        """After a step: whose rows are at their end, who is stopped, whose rows are due. Whether anybody is to be told
        before the next step."""
        with self._changed:
            told = [self._sort_out(member) for member in self._members]
            return any(told)

    def _sort_out(self, member: Member[R]) -> bool:
        ended = [row for row in member.inside if row.done or row.error is not None]
        member.inside = [row for row in member.inside if row not in ended]
        member.finished += [row for row in ended if row.error is None]
        error = _stop_of(member) or next((row.error for row in ended if row.error is not None), None)
        if error is not None:
            self._end(member, error)
        elif member.inside and member.is_due():
            member.is_paused = True
            member.waiting.extendleft(reversed(member.inside))
            member.inside = []
        is_told = bool(ended) or member.is_paused or error is not None
        member.has_news |= is_told
        return is_told

    def _end(self, member: Member[R], error: BaseException) -> None:
        member.inside = []
        member.error = member.error or error
        member.has_news = True

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
            for member in [member for member in self._members if member.inside] or self._members:
                self._end(member, error)

    def _tell(self) -> None:
        """After a turn: whoever is in it may report where it is."""
        with self._changed:
            for member in self._members:
                member.has_news |= bool(member.inside)
            self._changed.notify_all()


def _held(member: Member[R]) -> int:
    return len(member.inside)


def _stop_of(member: Member[R]) -> Stopped | None:
    try:
        member.on_step()
    except Stopped as stop:
        return stop
    return None
