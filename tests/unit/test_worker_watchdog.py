"""Whom the watchdog takes for hung, and what becomes of the others."""

from __future__ import annotations

import time

import pytest

from shared.store import Signal
from tests.unit.test_worker_monitor import Made
from worker.engines.turns import Turns
from worker.hooks import Ended
from worker.monitor import JobMonitor
from worker.runs import Runs
from worker.watchdog import EXIT_CODE, FIRST_STEP_FACTOR, Watchdog


class Ending(BaseException):
    """In place of the process' end."""


class Ledger:
    """A store that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def release(self, claim: object) -> None:
        self.told.append(("released", claim.id))  # type: ignore[attr-defined]

    def abandon(self, claim: object) -> Signal:
        self.told.append(("abandoned", claim.id))  # type: ignore[attr-defined]
        return Signal.OK


class Kennel:
    """A watchdog on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.monotonic()
        self.runs, self.turns, self.store = Runs(), Turns(), Ledger()
        self.late: list[str] = []
        monkeypatch.setattr("worker.watchdog.time.monotonic", lambda: self.now)
        self.dog = Watchdog(self.runs, self.turns, self.store, 10.0, shut=self.shut, end=self.end)  # type: ignore[arg-type]

    def shut(self) -> None:
        """A claim that was under way brings one more job."""
        self.runs.shut()
        for job_id in self.late:
            self.run(job_id, 9)

    def end(self, code: int) -> None:
        raise Ending(code)

    def run(self, job_id: str, thread: int) -> JobMonitor:
        monitor = Made(job_id=job_id).monitor
        monitor.thread, monitor.is_in_engine, monitor.moved_at = thread, True, self.now
        self.runs.open(monitor)
        return monitor

    def passes(self, seconds: float) -> None:
        """Looking all the while, as its thread does."""
        for _ in range(int(seconds)):
            self.now += 1
            self.dog.look()


@pytest.fixture
def kennel(monkeypatch: pytest.MonkeyPatch) -> Kennel:
    return Kennel(monkeypatch)


def test_the_silent_one_is_lost_and_its_siblings_go_back(kennel: Kennel, capfd: pytest.CaptureFixture[str]) -> None:
    kennel.dog.after(Made().monitor.claim, Ended("succeeded", {}))  # the kind is warm
    kennel.run("hung", 1)
    waiting, busy = kennel.run("waiting", 2), kennel.run("busy", 3)
    kennel.turns._waiting.add(waiting.thread)
    kennel.passes(9)
    busy.check()
    kennel.late = ["late"]
    with pytest.raises(Ending, match=str(EXIT_CODE)):
        kennel.passes(3)
    assert set(kennel.store.told) == {
        ("released", "waiting"), ("released", "busy"), ("released", "late"), ("abandoned", "hung"),
    }  # fmt: skip
    assert kennel.store.told[-1] == ("abandoned", "hung")
    assert len(kennel.runs) == 0  # no beat renews what was given up
    assert "test_worker_watchdog.py" in capfd.readouterr().err  # the stacks


def test_a_first_step_may_take_longer(kennel: Kennel) -> None:
    kennel.run("compiling", 1)
    kennel.passes(10 * FIRST_STEP_FACTOR)
    assert kennel.store.told == []
    with pytest.raises(Ending):
        kennel.passes(2)


def test_a_turn_begins_when_it_is_had(kennel: Kennel) -> None:
    """Who waited long and just got on the device is not to blame for the wait."""
    kennel.dog.after(Made().monitor.claim, Ended("succeeded", {}))
    patient = kennel.run("patient", 1)
    kennel.turns._waiting.add(patient.thread)
    kennel.passes(60)
    kennel.turns._moved_at[patient.thread] = kennel.now
    kennel.turns._waiting.discard(patient.thread)
    kennel.passes(9)
    assert kennel.store.told == []


def test_a_frozen_process_blames_nobody(kennel: Kennel) -> None:
    kennel.dog.after(Made().monitor.claim, Ended("succeeded", {}))
    kennel.run("frozen", 1)
    kennel.now += 3600
    kennel.dog.look()
    assert kennel.store.told == []
    with pytest.raises(Ending):
        kennel.passes(12)


def test_who_is_not_in_the_engine_may_take_its_time(kennel: Kennel) -> None:
    kennel.run("uploading", 1).is_in_engine = False
    kennel.passes(100)
    assert kennel.store.told == []
