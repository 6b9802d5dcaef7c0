"""What stops a run, in which order of strength, and what a run reports."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from PIL import Image

from shared.errors import Cancelled, DeadlineExceeded, Draining, LeaseLost, Stopped, Yielded
from shared.records.job import Claim
from shared.store.jobs import Signal
from worker.run.active import ActiveRuns
from worker.run.context import JobContext


def claim(deadline_ms: int | None = None, job_id: str = "j") -> Claim:
    return Claim(
        tenant="t", id=job_id, kind="probe", attempt=1, spec={}, created_at_ms=0, queued_at_ms=0,
        deadline_at_ms=deadline_ms, failures=0, claimed_at_ms=1000,
    )  # fmt: skip


class Made:
    """A monitor and what it handed on."""

    def __init__(self, deadline_ms: int | None = None, job_id: str = "j") -> None:
        self.noted = 0
        self.previews: list[int] = []
        self.context = JobContext(
            claim(deadline_ms, job_id),
            claimed_at=time.monotonic(),
            lease_s=10,
            on_progress=lambda _context: self._note(),
            on_preview=lambda _context, _image, step: self.previews.append(step),
        )

    def _note(self) -> None:
        self.noted += 1


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
    context.renewed(now + 5, Signal.OK)
    assert context.lease_until == pytest.approx(now + 15, abs=0.1)
    context.renewed(now, Signal.CANCEL)
    assert context.lease_until == pytest.approx(now + 15, abs=0.1)  # never shortened
    with pytest.raises(Cancelled):
        context.check()
    context.renewed(now, Signal.LOST)
    with pytest.raises(LeaseLost):
        context.check()


def test_a_yield_is_the_weakest_cause() -> None:
    context = Made().context
    context.renewed(time.monotonic(), Signal.YIELD)
    with pytest.raises(Yielded):
        context.check()
    context.renewed(time.monotonic(), Signal.CANCEL)
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
    made.context.has_preview_in_flight = True
    made.context.preview(picture, 2)
    assert made.previews == [1]


def test_waiting_ends_with_an_interruption() -> None:
    context = Made().context
    threading.Timer(0.05, lambda: context.stop(Cancelled("x"))).start()
    context.wait(3600)  # longer than any test may take
    context.wait(0.01)  # interrupted once, it waits again


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
