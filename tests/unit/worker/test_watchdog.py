"""Whom the watchdog takes for hung, and what becomes of the others."""

from __future__ import annotations

import time

import pytest

from shared.settings import Settings
from shared.store.jobs import Signal
from tests.unit.worker.test_run_context import Made
from worker.engines.scheduling.device_lock import DeviceLock
from worker.maintenance.watchdog import EXIT_CODE, FIRST_STEP_FACTOR, Watchdog
from worker.run.active import ActiveRuns
from worker.run.context import JobContext, Offer
from worker.run.failpoints import FailPoints
from worker.transfer.snapshots import Snapshots


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
        self.runs, self.device_lock, self.store = ActiveRuns(), DeviceLock(), Ledger()
        self.late: list[str] = []
        monkeypatch.setattr("worker.maintenance.watchdog.time.monotonic", lambda: self.now)
        self.dog = Watchdog(
            self.runs, self.device_lock, self.store, Settings(step_timeout_s=10.0), shut=self.shut, end=self.end
        )  # type: ignore[arg-type]

    def shut(self) -> None:
        """A claim that was under way brings one more job."""
        self.runs.shut()
        for job_id in self.late:
            self.run(job_id, 9)

    def end(self, code: int) -> None:
        raise Ending(code)

    def run(self, job_id: str, thread: int, *, step: int = 1) -> JobContext:
        """One that has taken a step of two, unless told otherwise."""
        context = Made(job_id=job_id).context
        if step:
            context.progress("sample", step, 2)
        context.thread, context.is_in_engine, context.moved_at = thread, True, self.now
        self.runs.open(context)
        return context

    def passes(self, seconds: float) -> None:
        """Looking all the while, as its thread does."""
        for _ in range(int(seconds)):
            self.now += 1
            self.dog.look()


@pytest.fixture
def kennel(monkeypatch: pytest.MonkeyPatch) -> Kennel:
    return Kennel(monkeypatch)


def test_the_silent_one_is_lost_and_its_siblings_go_back(kennel: Kennel, capfd: pytest.CaptureFixture[str]) -> None:
    kennel.run("hung", 1)
    waiting, busy = kennel.run("waiting", 2), kennel.run("busy", 3)
    kennel.device_lock._waiting.add(waiting.thread)
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
    assert "test_watchdog.py" in capfd.readouterr().err  # the stacks


@pytest.mark.parametrize("step", [0, 2])
def test_a_first_step_may_take_longer(kennel: Kennel, step: int) -> None:
    """Of the run, also where the kind is known here; and what follows a stage's last step is another stage's first."""
    kennel.run("compiling", 1, step=step)
    kennel.passes(10 * FIRST_STEP_FACTOR)
    assert kennel.store.told == []
    with pytest.raises(Ending):
        kennel.passes(2)


def test_a_turn_begins_when_it_is_had(kennel: Kennel) -> None:
    """Who waited long and just got on the device is not to blame for the wait."""
    patient = kennel.run("patient", 1)
    kennel.device_lock._waiting.add(patient.thread)
    kennel.passes(60)
    kennel.device_lock._moved_at[patient.thread] = kennel.now
    kennel.device_lock._waiting.discard(patient.thread)
    kennel.passes(9)
    assert kennel.store.told == []


def test_a_frozen_process_blames_nobody(kennel: Kennel) -> None:
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


def test_the_last_snapshot_is_watched_as_any_step(kennel: Kennel) -> None:
    """It is made on the device, outside the engine's run."""
    context = kennel.run("drained", 1)
    context.is_in_engine = False
    snapshots = Snapshots(None, None, 5.0, FailPoints())  # type: ignore[arg-type]

    def hangs() -> bytes:
        kennel.passes(12)
        return b""

    context.offer = Offer(1, hangs)
    with pytest.raises(Ending):
        snapshots.save_last(context)
    assert kennel.store.told == [("abandoned", "drained")]


def test_the_blind_timer_meets_only_who_lost_its_jobs(kennel: Kennel, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fires as soon as a process that stood still goes on: so only with jobs, and never within their lease."""
    armed: list[float | None] = []
    monkeypatch.setattr(
        "worker.maintenance.watchdog.faulthandler.dump_traceback_later", lambda seconds, exit: armed.append(seconds)
    )
    monkeypatch.setattr(
        "worker.maintenance.watchdog.faulthandler.cancel_dump_traceback_later", lambda: armed.append(None)
    )
    settings = Settings(step_timeout_s=0.5, lease_s=15.0)
    dog = Watchdog(kennel.runs, kennel.device_lock, kennel.store, settings, shut=kennel.shut, end=kennel.end)  # type: ignore[arg-type]
    dog.thread.once()
    context = kennel.run("busy", 1)
    dog.thread.once()
    kennel.runs.close(context)
    dog.thread.once()
    assert armed == [None, 30.0, None]
