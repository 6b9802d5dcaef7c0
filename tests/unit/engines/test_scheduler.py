"""Who runs in the next step: the scheduler alone, without threads, clock or device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import Cancelled, EngineError, NonFinite
from worker.engines.scheduling.request import Request
from worker.engines.scheduling.scheduler import Scheduler


@dataclass(eq=False)
class Count:
    """A row that is done, or broken, when a test says so."""

    name: str
    done: bool = False
    error: EngineError | None = None


def request_of(
    name: str,
    rows: int,
    max_rows: int | None = None,
    on_step: Callable[[], None] = lambda: None,
    is_due: Callable[[], bool] = lambda: False,
) -> Request[Count]:
    return Request([Count(f"{name}{number}") for number in range(rows)], max_rows or rows, on_step, is_due)


def scheduler_of(*requests: Request[Count]) -> Scheduler[Count]:
    scheduler = Scheduler[Count]()
    scheduler.requests += requests
    return scheduler


def running(request: Request[Count]) -> str:
    return " ".join(row.name for row in request.running)


def waiting(request: Request[Count]) -> str:
    return " ".join(row.name for row in request.waiting)


def test_rows_run_in_their_order_as_far_as_slots_go() -> None:
    one = request_of("a", 5)
    changes = scheduler_of(one).schedule(3)
    assert (running(one), waiting(one)) == ("a0 a1 a2", "a3 a4")
    assert changes.started == [one] * 3
    assert changes.evicted == []


def test_who_comes_late_gets_a_half_and_who_made_room_goes_on_where_it_was() -> None:
    early, late = request_of("a", 6), request_of("b", 6)
    scheduler = scheduler_of(early)
    scheduler.schedule(4)
    scheduler.requests.append(late)
    changes = scheduler.schedule(4)
    assert (running(early), waiting(early)) == ("a0 a1", "a2 a3 a4 a5")
    assert running(late) == "b0 b1"
    assert changes.evicted == [early] * 2
    assert changes.started == [late] * 2
    scheduler.requests.remove(late)
    assert scheduler.schedule(4).started == []  # a2 and a3 have run before
    assert running(early) == "a0 a1 a2 a3"


def test_a_difference_of_one_is_fair() -> None:
    one, other = request_of("a", 3), request_of("b", 3)
    scheduler = scheduler_of(one, other)
    scheduler.schedule(3)
    assert sorted([len(one.running), len(other.running)]) == [1, 2]
    assert scheduler.schedule(3).evicted == []


def test_a_request_takes_no_more_than_it_may_and_no_more_than_it_needs() -> None:
    bounded, short, long = request_of("a", 9, max_rows=2), request_of("b", 1), request_of("c", 9)
    scheduler_of(bounded, short, long).schedule(8)
    assert [len(request.running) for request in (bounded, short, long)] == [2, 1, 5]


def test_fewer_slots_than_before_take_from_whoever_has_most() -> None:
    few, many = request_of("a", 1), request_of("b", 7)
    scheduler = scheduler_of(few, many)
    scheduler.schedule(8)
    assert scheduler.schedule(3).evicted == [many] * 5
    assert (running(few), running(many)) == ("a0", "b0 b1")


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.lists(st.integers(1, 10), min_size=1, max_size=4))
def test_shares_differ_by_one_at_most_but_for_who_needs_less(sizes: list[int], slots: list[int]) -> None:
    """Whatever the slots were before, and whoever came when."""
    scheduler = Scheduler[Count]()
    for number, rows in enumerate(sizes):
        scheduler.requests.append(request_of(str(number), rows))
        scheduler.schedule(slots[number % len(slots)])
    scheduler.schedule(slots[0])
    shares = [len(request.running) for request in scheduler.requests]
    assert sum(shares) == min(slots[0], sum(sizes))
    unsatisfied = [share for share, size in zip(shares, sizes, strict=True) if share < size]
    assert all(max(shares) - share <= 1 for share in unsatisfied)


def test_finished_rows_make_room_and_are_handed_over_once() -> None:
    one = request_of("a", 3)
    scheduler = scheduler_of(one)
    scheduler.schedule(2)
    assert not scheduler.update()
    assert not one.is_notified
    one.rows[1].done = True
    assert scheduler.update()
    assert one.is_notified
    assert [row.name for row in one.take_finished()] == ["a1"]
    assert not one.is_notified
    scheduler.schedule(2)
    assert running(one) == "a0 a2"
    for row in one.rows:
        row.done = True
    scheduler.update()
    assert one.is_over
    assert [row.name for row in one.take_finished()] == ["a0", "a2"]


def test_a_broken_row_ends_its_request_and_no_other() -> None:
    bad, good = request_of("a", 2), request_of("b", 1)
    scheduler = scheduler_of(bad, good)
    scheduler.schedule(3)
    bad.rows[0].error = NonFinite("not a number")
    bad.rows[1].done = True
    assert scheduler.update()
    assert bad.is_over
    assert not good.is_over
    assert bad.take_finished() == [bad.rows[1]]  # what was finished comes before what went wrong
    with pytest.raises(NonFinite):
        bad.take_finished()
    scheduler.schedule(3)
    assert (running(bad), running(good)) == ("", "b0")


def test_a_stop_counts_more_than_a_broken_row() -> None:
    def stop() -> None:
        raise Cancelled("by the caller")

    one = request_of("a", 2, on_step=stop)
    scheduler = scheduler_of(one)
    scheduler.schedule(2)
    one.rows[0].error = NonFinite("not a number")
    assert scheduler.update()
    with pytest.raises(Cancelled):
        one.take_finished()
    assert scheduler.rows_running == 0


def test_rows_that_are_due_stand_still_in_their_order() -> None:
    due = request_of("a", 3, is_due=lambda: True)
    scheduler = scheduler_of(due)
    scheduler.schedule(2)
    assert scheduler.update()
    scheduler.schedule(2)
    assert (running(due), waiting(due)) == ("", "a0 a1 a2")
    due.is_paused = False
    scheduler.schedule(2)
    assert (running(due), waiting(due)) == ("a0 a1", "a2")


def test_what_fails_a_step_ends_whoever_was_in_it() -> None:
    inside, outside = request_of("a", 2), request_of("b", 2)
    scheduler = scheduler_of(inside)
    scheduler.schedule(2)
    scheduler.requests.append(outside)
    scheduler.fail(RuntimeError("broken"))
    assert inside.is_over
    assert inside.is_notified
    assert outside.error is None


def test_what_fails_before_any_step_ends_whoever_waits() -> None:
    one, other = request_of("a", 2), request_of("b", 2)
    scheduler_of(one, other).fail(RuntimeError("broken"))
    assert one.is_over
    assert other.is_over


def test_after_a_turn_those_in_it_may_look() -> None:
    inside, outside = request_of("a", 1), request_of("b", 1)
    scheduler = scheduler_of(inside)
    scheduler.schedule(1)
    scheduler.requests.append(outside)
    scheduler.notify_running()
    assert inside.is_notified
    assert not outside.is_notified


def test_the_device_follows_what_was_scheduled() -> None:
    one, other = request_of("a", 2), request_of("b", 1)
    scheduler = scheduler_of(one)
    scheduler.schedule(2)
    assert scheduler.coming() == list(one.rows)
    scheduler.put_on_device(scheduler.coming())
    assert scheduler.coming() == []
    scheduler.requests.append(other)
    scheduler.schedule(1)
    assert scheduler.leaving() == [one.rows[1]]
    assert not scheduler.are_off_device(one.rows)
    scheduler.take_off_device(scheduler.leaving())
    assert scheduler.are_off_device(one.rows[1:])
    scheduler.requests.remove(one)
    assert scheduler.leaving() == [one.rows[0]]  # a job that left has its rows on the device until they are taken out
    assert scheduler.is_busy


def test_it_is_idle_without_rows_to_move() -> None:
    one = request_of("a", 2)
    scheduler = scheduler_of(one)
    assert scheduler.is_busy
    assert scheduler.rows_left == 2
    one.is_paused = True
    assert not scheduler.is_busy
