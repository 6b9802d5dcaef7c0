"""The shared batch, with a stand-in for the device: who is in when, who is told what, who pays for whom."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from shared.errors import Cancelled, EngineError, NonFinite, OutOfMemory
from tests.support.polling import PATIENCE_S, eventually
from worker.engines.scheduling.batch import Batch
from worker.engines.scheduling.device_lock import DeviceLock
from worker.engines.scheduling.stepper import BatchEvents


@dataclass(eq=False)
class Count:
    """A row that counts to its length."""

    length: int
    at: int = 0
    error: EngineError | None = None
    breaks_at: int = -1

    @property
    def done(self) -> bool:
        """At its end."""
        return self.at >= self.length


class FirstTurn:
    """One step per turn: every step may be followed by another job's."""

    has_time = False

    def stepped(self) -> None:
        """Nothing to count."""


@dataclass
class Counters:
    """Steps rows by one; the device holds `slots`, of which a step may find too many."""

    slots: int = 4
    inside: list[Count] = field(default_factory=list)
    steps: list[list[Count]] = field(default_factory=list)  # who was in each step
    gate: threading.Semaphore | None = None  # one step per permit
    too_many: int = 99
    raised: Exception | None = None
    emptied: int = 0

    def admit(self, rows: Sequence[Count]) -> None:
        """See Stepper."""
        assert not set(map(id, rows)) & set(map(id, self.inside))
        self.inside += rows
        assert len(self.inside) <= self.slots

    def leave(self, rows: Sequence[Count]) -> None:
        """See Stepper."""
        for row in rows:
            self.inside.remove(row)

    def step(self) -> None:
        """See Stepper."""
        if self.gate is not None:
            assert self.gate.acquire(timeout=PATIENCE_S)
        if self.raised is not None:
            raise self.raised
        if len(self.inside) > self.too_many:
            raise OutOfMemory("full")
        self.steps.append(list(self.inside))
        for row in self.inside:
            row.at += 1
            if row.at == row.breaks_at:
                row.error = NonFinite("not a number")

    def shrink(self) -> bool:
        """See Stepper."""
        self.slots //= 2
        return self.slots > 0

    def empty(self) -> None:
        """See Stepper."""
        self.emptied += 1


def _batch(stepper: Counters, events: BatchEvents | None = None, device_lock: DeviceLock | None = None) -> Batch[Count]:
    device_lock = device_lock or DeviceLock()

    @contextmanager
    def turn(_kind: str) -> Iterator[FirstTurn]:
        device_lock.acquire()
        try:
            yield FirstTurn()
        finally:
            device_lock.release()

    return Batch("probe", stepper, turn, device_lock, events)


def _nothing() -> None:
    pass


class Job:
    """A job in a thread of its own."""

    def __init__(
        self,
        batch: Batch[Count],
        rows: list[Count],
        on_step: Callable[[], None] = _nothing,
        is_due: Callable[[], bool] = lambda: False,
    ) -> None:
        self.rows, self.finished, self.error = rows, list[Count](), None
        self.seen: list[list[int]] = []  # where the rows were at each turn
        self._args = (rows, on_step, is_due)
        self._batch = batch
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    error: BaseException | None

    def _run(self) -> None:
        try:
            with self._batch.joined(*self._args) as turns:
                for finished in turns:
                    self.finished += finished
                    self.seen.append([row.at for row in self.rows])
        except BaseException as error:
            self.error = error

    def wait(self) -> None:
        """To its end."""
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


def test_rows_step_to_their_ends() -> None:
    stepper = Counters()
    job = Job(_batch(stepper), [Count(3), Count(5)])
    job.wait()
    assert job.error is None
    assert [row.at for row in job.finished] == [3, 5]
    assert not stepper.inside


def test_more_rows_than_slots() -> None:
    stepper = Counters(slots=4)
    job = Job(_batch(stepper), [Count(2) for _ in range(11)])
    job.wait()
    assert len(job.finished) == 11
    assert [len(rows) for rows in stepper.steps] == [4, 4, 4, 4, 3, 3]


def test_two_jobs_share_every_step() -> None:
    stepper = Counters(gate=threading.Semaphore(0))
    batch = _batch(stepper)
    jobs = [Job(batch, [Count(4)]), Job(batch, [Count(4)])]
    eventually(lambda: len(batch.scheduler.requests) == 2)
    stepper.gate.release(10)  # type: ignore[union-attr]
    for job in jobs:
        job.wait()
    assert sum(len(rows) == 2 for rows in stepper.steps) >= 3
    assert len(stepper.steps) <= 5


def test_a_short_job_joins_a_full_batch_within_two_steps_and_the_one_that_made_room_ends_too() -> None:
    stepper = Counters(slots=4, gate=threading.Semaphore(0))
    evicted: list[str] = []
    batch = _batch(stepper, BatchEvents(on_evicted=evicted.append))
    long = Job(batch, [Count(50) for _ in range(8)])
    stepper.gate.release(5)  # type: ignore[union-attr]
    eventually(lambda: len(stepper.steps) == 5)
    short = Job(batch, [Count(3)])
    eventually(lambda: len(batch.scheduler.requests) == 2)
    stepper.gate.release(1000)  # type: ignore[union-attr]
    short.wait()
    long.wait()
    first = next(number for number, rows in enumerate(stepper.steps) if short.rows[0] in rows)
    assert first <= 5 + 2
    assert len(evicted) == 1
    assert all(row.at == 50 for row in long.finished)
    assert len(long.finished) == 8


def test_slots_are_shared_by_halves() -> None:
    stepper = Counters(slots=4, gate=threading.Semaphore(0))
    batch = _batch(stepper)
    many, few = Job(batch, [Count(40) for _ in range(8)]), Job(batch, [Count(40) for _ in range(8)])
    eventually(lambda: len(batch.scheduler.requests) == 2)
    stepper.gate.release(1000)  # type: ignore[union-attr]
    many.wait()
    few.wait()
    shares = [sum(row in many.rows for row in rows) for rows in stepper.steps[3:100]]
    assert set(shares) == {2}


def test_a_stopped_job_leaves_at_its_next_step_and_the_others_stay() -> None:
    stepper = Counters(gate=threading.Semaphore(0))
    batch = _batch(stepper)
    is_cancelled = threading.Event()

    def check() -> None:
        if is_cancelled.is_set():
            raise Cancelled("by the caller")

    gone, stays = Job(batch, [Count(50)], check), Job(batch, [Count(6)])
    eventually(lambda: len(batch.scheduler.requests) == 2)
    stepper.gate.release(2)  # type: ignore[union-attr]
    eventually(lambda: len(stepper.steps) == 2)
    is_cancelled.set()
    stepper.gate.release(1000)  # type: ignore[union-attr]
    gone.wait()
    stays.wait()
    assert isinstance(gone.error, Cancelled)
    assert gone.rows[0].at <= 4  # the step under way, and the one whose end tells
    assert stays.rows[0].at == 6
    assert not stepper.inside


def test_what_was_finished_is_handed_over_before_the_job_hears_that_it_is_stopped() -> None:
    stepper = Counters()
    rows = [Count(3), Count(9)]

    def on_step() -> None:
        if rows[0].done:
            raise Cancelled("by the caller")

    job = Job(_batch(stepper), rows, on_step)
    job.wait()
    assert isinstance(job.error, Cancelled)
    assert job.finished == rows[:1]
    assert rows[1].at == 3


def test_rows_that_came_due_while_the_job_was_busy_stand_still_until_it_has_seen_them() -> None:
    gate = threading.Semaphore(0)
    batch, row, seen = _batch(Counters(gate=gate)), Count(9), list[int]()
    with batch.joined([row], _nothing, lambda: row.at == 3 and not seen) as turns:
        gate.release(1)
        next(turns)  # told of the first step; the next ones are taken meanwhile
        gate.release(2)
        eventually(lambda: batch.scheduler.requests[0].is_paused)
        next(turns)
        assert batch.scheduler.requests[0].is_paused
        assert row.at == 3
        seen.append(row.at)
        gate.release(10)
        for _ in turns:
            pass
    assert row.at == 9


def test_a_row_that_breaks_ends_its_job_alone() -> None:
    stepper = Counters()
    batch = _batch(stepper)
    good, bad = Job(batch, [Count(30)]), Job(batch, [Count(30, breaks_at=7), Count(30)])
    good.wait()
    bad.wait()
    assert isinstance(bad.error, NonFinite)
    assert good.error is None
    assert good.rows[0].done


def test_rows_that_are_due_stand_still_until_they_were_seen() -> None:
    stepper = Counters()
    batch = _batch(stepper)
    rows = [Count(10)]
    job = Job(batch, rows, is_due=lambda: rows[0].at % 4 == 0)
    other = Job(batch, [Count(500)])
    job.wait()
    other.wait()
    assert [4] in job.seen
    assert [8] in job.seen
    assert rows[0].done


def test_a_full_device_makes_the_batch_smaller_and_nothing_is_lost() -> None:
    shrunk: list[str] = []
    stepper = Counters(slots=8, too_many=3)
    job = Job(_batch(stepper, BatchEvents(on_shrunk=shrunk.append)), [Count(5) for _ in range(8)])
    job.wait()
    assert job.error is None
    assert all(row.at == 5 for row in job.finished)
    assert len(job.finished) == 8
    assert shrunk == ["probe"] * 2
    assert stepper.slots == 2


def test_a_device_too_full_for_one_row_fails_its_jobs() -> None:
    stepper = Counters(slots=2, too_many=0)
    job = Job(_batch(stepper), [Count(5)])
    job.wait()
    assert isinstance(job.error, OutOfMemory)
    assert not stepper.inside


def test_what_nobody_is_to_blame_for_is_told_to_all_and_the_batch_serves_on() -> None:
    stepper = Counters(raised=RuntimeError("broken"))
    batch = _batch(stepper)
    jobs = [Job(batch, [Count(5)]), Job(batch, [Count(5)])]
    for job in jobs:
        job.wait()
        assert str(job.error) == "broken"
    stepper.raised = None
    late = Job(batch, [Count(5)])
    late.wait()
    assert late.error is None


def test_a_batch_without_room_tells_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def slots(_stepper: Counters) -> int:
        raise OutOfMemory("no room")

    stepper = Counters(slots=0)
    monkeypatch.setattr(Counters, "slots", property(slots))
    job = Job(_batch(stepper), [Count(2)])
    job.wait()
    assert isinstance(job.error, OutOfMemory)


def test_a_thread_that_gives_up_by_itself_takes_its_rows_out() -> None:
    stepper = Counters()
    batch = _batch(stepper)
    rows = [Count(1000)]
    with pytest.raises(KeyError), batch.joined(rows, _nothing) as turns:  # noqa: PT012
        next(turns)
        raise KeyError
    assert not stepper.inside
    assert 0 < rows[0].at < 1000


def test_rows_are_handed_over_only_when_they_are_off_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes or goes wakes everybody; a finished row whose state is still on the device is not told then."""
    leave, is_leaving, may_leave = Counters.leave, threading.Event(), threading.Event()

    def slowly(stepper: Counters, rows: Sequence[Count]) -> None:
        is_leaving.set()
        assert may_leave.wait(PATIENCE_S)
        leave(stepper, rows)

    monkeypatch.setattr(Counters, "leave", slowly)
    stepper = Counters()
    batch = _batch(stepper)
    job = Job(batch, [Count(2)])
    assert is_leaving.wait(PATIENCE_S)
    asked: list[bool] = []
    are_off = batch.scheduler.are_off_device
    monkeypatch.setattr(batch.scheduler, "are_off_device", lambda rows: asked.append(are_off(rows)) or asked[-1])
    with batch.joined([], _nothing):  # wakes everybody
        pass
    asked.remove(True)  # its own
    eventually(lambda: asked == [False])
    assert job.finished == []
    may_leave.set()
    job.wait()
    assert job.finished == job.rows


def test_a_thread_that_gives_up_while_its_rows_come_in_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    coming, may_come = threading.Event(), threading.Event()
    admit = Counters.admit

    def slowly(stepper: Counters, rows: Sequence[Count]) -> None:
        coming.set()
        assert may_come.wait(PATIENCE_S)
        admit(stepper, rows)

    monkeypatch.setattr(Counters, "admit", slowly)
    stepper = Counters()
    batch = _batch(stepper)
    rows = [Count(1000)]

    def give_up() -> None:
        with batch.joined(rows, _nothing):
            assert coming.wait(PATIENCE_S)

    thread = threading.Thread(target=give_up)
    thread.start()
    eventually(lambda: coming.is_set() and not batch.scheduler.requests)
    assert thread.is_alive()  # its row may be on the device yet
    may_come.set()
    thread.join(PATIENCE_S)
    assert not stepper.inside
    assert rows[0].at <= 1


def test_an_idle_batch_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engines.scheduling.driver.IDLE_S", 0.01)
    stepper = Counters()
    batch = _batch(stepper)
    Job(batch, [Count(2)]).wait()
    eventually(lambda: stepper.emptied == 1)
    again = Job(batch, [Count(2)])
    again.wait()
    assert again.finished == again.rows


def test_the_watchdog_sees_who_waits_and_who_steps() -> None:
    device_lock = DeviceLock()
    stepper = Counters(slots=1, gate=threading.Semaphore(0))
    batch = _batch(stepper, device_lock=device_lock)

    def is_waiting(job: Job) -> bool:
        return job.thread.ident is not None and device_lock.is_waiting(job.thread.ident)

    device_lock.acquire()
    first = Job(batch, [Count(3)])
    eventually(lambda: is_waiting(first))
    device_lock.release()
    eventually(lambda: not is_waiting(first))  # its step is what hangs, if anything does
    assert stepper.inside == first.rows
    second = Job(batch, [Count(3)])
    eventually(lambda: is_waiting(second))
    assert not is_waiting(first)
    stepper.gate.release(100)  # type: ignore[union-attr]
    first.wait()
    second.wait()
