"""What stops a run, in which order of strength, and what a run reports."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from shared.errors import Cancelled, DeadlineExceeded, Draining, LeaseLost, Stopped, Yielded
from shared.records.job import Claim
from shared.store.jobs import Signal
from tests.support.polling import PATIENCE_S
from worker.run.active import ActiveRuns
from worker.run.context import EngineEvents, JobContext
from worker.run.hooks import Hook


def claim(deadline_ms: int | None = None, job_id: str = "j") -> Claim:
    return Claim(
        tenant="t", id=job_id, kind="probe", attempt=1, spec={}, created_at_ms=0, queued_at_ms=0,
        deadline_at_ms=deadline_ms, failures=0, claimed_at_ms=1000,
    )  # fmt: skip


class Made(Hook):
    """A context and what it handed on, unless someone else hears it. `changes` are of its claim."""

    def __init__(
        self, deadline_ms: int | None = None, job_id: str = "j", events: EngineEvents | None = None, **changes: Any
    ) -> None:
        self.noted = 0
        self.previews: list[int] = []
        claimed = replace(claim(deadline_ms, job_id), **changes)
        self.context = JobContext(claimed, claimed_at=time.monotonic(), lease_s=10, events=events or self)

    def progressed(self, _context: JobContext) -> None:
        self.noted += 1

    def preview_made(self, _context: JobContext, _image: Image.Image, step: int) -> None:
        self.previews.append(step)


def test_nothing_stops_a_quiet_run() -> None:
    Made().context.check()


@pytest.mark.parametrize(
    ("causes", "expected"),
    [
        ([Draining, Cancelled], Cancelled),
        ([Cancelled, Draining], Cancelled),
        ([Cancelled, LeaseLost], LeaseLost),
        ([LeaseLost, Cancelled], LeaseLost),
        ([Draining], Draining),
        ([Yielded, Draining], Draining),
        ([Cancelled, Yielded], Cancelled),
    ],
)
def test_the_stronger_cause_wins(causes: list[type[Stopped]], expected: type[Stopped]) -> None:
    context = Made().context
    for cause in causes:
        context.stop(cause("x"))
    with pytest.raises(expected):
        context.check()
    context.check(keep_through=(expected,))


def test_a_deadline_counts_from_the_claim_by_the_stores_clock() -> None:
    context = Made(deadline_ms=1000).context  # the claim's own millisecond: passed at once
    time.sleep(0.001)
    with pytest.raises(DeadlineExceeded):
        context.check()
    context.check(keep_through=(DeadlineExceeded,))
    Made(deadline_ms=60_000).context.check()


def test_signals_of_the_store() -> None:
    context = Made().context
    now = time.monotonic()
    context.stop_signal.renewed(now + 5, Signal.OK)
    assert context.stop_signal.lease_until == pytest.approx(now + 15, abs=0.1)
    context.stop_signal.renewed(now, Signal.CANCEL)
    assert context.stop_signal.lease_until == pytest.approx(now + 15, abs=0.1)  # never shortened
    with pytest.raises(Cancelled):
        context.check()
    context.stop_signal.renewed(now, Signal.LOST)
    with pytest.raises(LeaseLost):
        context.check()


def test_a_yield_is_the_weakest_cause() -> None:
    context = Made().context
    context.stop_signal.renewed(time.monotonic(), Signal.YIELD)
    with pytest.raises(Yielded):
        context.check()
    context.stop_signal.renewed(time.monotonic(), Signal.CANCEL)
    with pytest.raises(Cancelled):
        context.check()


def test_progress_never_falls() -> None:
    made = Made()
    made.context.progress("sample", 8, 10)
    first = made.context.latest
    made.context.progress("rank", 1, 10)
    assert made.context.latest["fraction"] == first["fraction"]
    assert made.context.latest["stage"] == "rank"
    assert made.noted == 2


def test_a_preview_is_part_of_the_progress_from_then_on() -> None:
    context = Made().context
    context.progress("sample", 1, 10)
    context.note_preview({"name": "preview-000001.png", "key": "k", "step": 1})
    context.progress("sample", 2, 10)
    assert context.latest["preview"]["step"] == 1
    assert context.latest["step"] == 2


def test_a_preview_is_dropped_while_one_is_on_its_way() -> None:
    made = Made()
    picture = Image.new("RGB", (1, 1))
    made.context.preview(picture, 1)
    made.context.preview_started()
    made.context.preview(picture, 2)
    made.context.preview_ended()
    made.context.preview(picture, 3)
    assert made.previews == [1, 3]


def test_waiting_ends_with_an_interruption() -> None:
    context = Made().context
    threading.Timer(0.05, lambda: context.stop(Cancelled("x"))).start()
    context.stop_signal.wait(3600)  # longer than any test may take
    context.stop_signal.wait(0.01)  # interrupted once, it waits again


def test_a_run_is_in_its_engine_while_it_is() -> None:
    """On the thread that went in; going in counts as a step."""
    context = Made().context
    before = context.moved_at
    with context.in_engine():
        assert context.is_in_engine
        assert context.thread == threading.get_ident()
        assert context.moved_at > before
    assert not context.is_in_engine


def test_one_that_is_stopped_in_its_engine_is_out_of_it() -> None:
    context = Made().context
    context.stop(Draining("x"))
    with pytest.raises(Draining), context.in_engine():
        context.check()
    assert not context.is_in_engine


def test_a_closed_run_writes_nothing_more() -> None:
    context = Made().context
    with context.writing() as may_write:
        assert may_write
        closing = threading.Thread(target=context.close)
        closing.start()
        closing.join(0.05)
        assert closing.is_alive()  # it waits for the write under way
    closing.join(PATIENCE_S)
    with context.writing() as may_write:
        assert not may_write


class TestRuns:
    @pytest.mark.parametrize(("tell", "cause"), [(ActiveRuns.cancel, Cancelled), (ActiveRuns.pause, Yielded)])
    def test_a_word_reaches_its_job_only(self, tell: Callable[[ActiveRuns, str], None], cause: type[Stopped]) -> None:
        runs = ActiveRuns()
        one, other = Made(job_id="one").context, Made(job_id="other").context
        runs.open(one)
        runs.open(other)
        tell(runs, "t:one")
        tell(runs, "t:unknown")
        with pytest.raises(cause):
            one.check()
        other.check()

    def test_giving_up_reaches_later_runs_too(self) -> None:
        runs = ActiveRuns()
        runs.give_up()
        late = Made().context
        runs.open(late)
        with pytest.raises(Draining):
            late.check()

    def test_waiting_until_empty(self) -> None:
        runs = ActiveRuns()
        context = Made().context
        runs.open(context)
        assert len(runs) == 1
        assert not runs.wait_until_empty(0.01)
        threading.Timer(0.05, lambda: runs.close(context)).start()
        assert runs.wait_until_empty(5)

    def test_a_newer_attempt_of_the_same_job_is_not_closed_by_the_older(self) -> None:
        runs = ActiveRuns()
        old, new = Made().context, Made().context
        runs.open(old)
        runs.open(new)
        runs.close(old)
        assert runs.all() == [new]
