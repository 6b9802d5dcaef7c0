"""Who may claim: one thread at a time on an idle worker, nobody beside a job that runs alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.polling import PATIENCE_S, eventually
from tests.unit.worker.test_run_context import Made
from worker.run.active import ActiveRuns
from worker.run.context import JobContext


def run(job_id: str, *, alone: bool = False) -> JobContext:
    return Made(job_id=job_id, alone=alone).context


class Claimer:
    """A thread that wants to claim; stays between claim and open until it is let go."""

    def __init__(self, runs: ActiveRuns) -> None:
        self.is_idle: bool | None = None
        self.go = threading.Event()
        self._runs = runs
        self.thread = threading.Thread(target=self._claim, daemon=True)
        self.thread.start()

    def _claim(self) -> None:
        with self._runs.claiming() as is_idle:
            self.is_idle = is_idle
            self.go.wait(PATIENCE_S)

    @property
    def is_in(self) -> bool:
        return self.is_idle is not None

    def end(self) -> None:
        self.go.set()
        self.thread.join(PATIENCE_S)


@contextmanager
def claimer(runs: ActiveRuns) -> Iterator[Claimer]:
    made = Claimer(runs)
    try:
        yield made
    finally:
        made.end()


def still_out(made: Claimer) -> bool:
    """Whether it is kept waiting: it had a fair chance to enter."""
    made.thread.join(0.1)
    return not made.is_in


def test_an_idle_claim_is_made_by_one_thread() -> None:
    runs = ActiveRuns()
    with claimer(runs) as first:
        eventually(lambda: first.is_in)
        assert first.is_idle
        with claimer(runs) as second:
            assert still_out(second)
            runs.open(run("won"))
            first.end()
            eventually(lambda: second.is_in)
            assert second.is_idle is False


def test_claims_beside_a_running_job_are_made_side_by_side() -> None:
    runs = ActiveRuns()
    runs.open(run("there"))
    with claimer(runs) as first, claimer(runs) as second:
        eventually(lambda: first.is_in and second.is_in)
        assert (first.is_idle, second.is_idle) == (False, False)


def test_nobody_claims_beside_a_job_that_runs_alone() -> None:
    runs = ActiveRuns()
    alone = run("suspect", alone=True)
    runs.open(alone)
    with claimer(runs) as waiting:
        assert still_out(waiting)
        runs.close(alone)
        eventually(lambda: waiting.is_in)
        assert waiting.is_idle


def test_standing_by_ends_when_the_worker_is_idle() -> None:
    runs = ActiveRuns()
    one, two = run("one"), run("two")
    runs.open(one)
    runs.open(two)
    runs.stand_by(3600)
    with claimer(runs) as waiting:
        runs.close(one)
        assert still_out(waiting)
        runs.close(two)
        eventually(lambda: waiting.is_in)
        assert waiting.is_idle
    runs.open(one)
    with claimer(runs) as next_one:  # it was idle once, so it stands by no longer
        eventually(lambda: next_one.is_in)


def test_one_that_stands_by_asks_again_after_a_while() -> None:
    runs = ActiveRuns()
    runs.open(run("long"))
    runs.stand_by(0.05)
    with claimer(runs) as waiting:
        eventually(lambda: waiting.is_in)
        assert waiting.is_idle is False


@pytest.mark.parametrize("alone", [True, False])
def test_nobody_waits_once_the_worker_is_shut(alone: bool) -> None:
    runs = ActiveRuns()
    runs.open(run("there", alone=alone))
    runs.stand_by(3600)
    with claimer(runs) as waiting:
        assert still_out(waiting)
        runs.shut()
        eventually(lambda: waiting.is_in)
