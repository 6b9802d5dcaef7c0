"""Whom the watchdog takes for hung, and what becomes of the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from shared.store.jobs import Signal
from tests.support.polling import PATIENCE_S
from tests.unit.worker.test_run_context import Made
from worker.engines.scheduling.device_lock import DeviceLock
from worker.maintenance.watchdog import EXIT_CODE, FIRST_STEP_FACTOR, Watchdog
from worker.run.active import ActiveRuns
from worker.run.context import JobContext
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
            self.runs, self.device_lock, self.store, step_timeout_s=10.0, lease_s=15.0, shut=self.shut, end=self.end
        )  # type: ignore[arg-type]
        self._is_over = threading.Event()
        self._threads: list[threading.Thread] = []

    def shut(self) -> None:
        """A claim that was under way brings one more job."""
        self.runs.shut()
        for job_id in self.late:
            self.run(job_id)

    def end(self, code: int) -> None:
        raise Ending(code)

    def run(self, job_id: str, *, step: int = 1, wants_device: bool = False) -> JobContext:
        """One that has taken a step of two, unless told otherwise, and is in its engine, on a thread of its own."""
        context = Made(job_id=job_id).context
        if step:
            context.progress("sample", step, 2)
        is_inside = threading.Event()

        def work() -> None:
            with context.in_engine():
                is_inside.set()
                if wants_device:
                    self.device_lock.acquire()
                self._is_over.wait(60)
                if wants_device:
                    self.device_lock.release()

        self._threads.append(threading.Thread(target=work, daemon=True))
        self._threads[-1].start()
        assert is_inside.wait(PATIENCE_S)
        self.runs.open(context)
        return context

    def until_waiting(self, context: JobContext, is_waiting: bool = True) -> None:
        """For the device; by the true clock, since the other one stands still."""
        for _ in range(1000):
            if self.device_lock.is_waiting(context.thread) == is_waiting:
                return
            threading.Event().wait(0.01)
        raise AssertionError("it waits as before")

    def close(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def passes(self, seconds: float) -> None:
        """Looking all the while, as its thread does."""
        for _ in range(int(seconds)):
            self.now += 1
            self.dog.look()


@pytest.fixture
def kennel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kennel]:
    kennel = Kennel(monkeypatch)
    yield kennel
    kennel.close()


def test_the_silent_one_is_lost_and_its_siblings_go_back(kennel: Kennel, capfd: pytest.CaptureFixture[str]) -> None:
    kennel.device_lock.acquire()
    kennel.run("hung")
    waiting, busy = kennel.run("waiting", wants_device=True), kennel.run("busy")
    kennel.until_waiting(waiting)
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
    kennel.device_lock.release()


@pytest.mark.parametrize("step", [0, 2])
def test_a_first_step_may_take_longer(kennel: Kennel, step: int) -> None:
    """Of the run, also where the kind is known here; and what follows a stage's last step is another stage's first."""
    kennel.run("compiling", step=step)
    kennel.passes(10 * FIRST_STEP_FACTOR)
    assert kennel.store.told == []
    with pytest.raises(Ending):
        kennel.passes(2)


def test_a_turn_begins_when_it_is_had(kennel: Kennel) -> None:
    """Who waited long and just got on the device is not to blame for the wait."""
    kennel.device_lock.acquire()
    patient = kennel.run("patient", wants_device=True)
    kennel.until_waiting(patient)
    kennel.passes(60)
    kennel.device_lock.release()
    kennel.until_waiting(patient, False)
    kennel.passes(9)
    assert kennel.store.told == []
    with pytest.raises(Ending):
        kennel.passes(3)


def test_a_frozen_process_blames_nobody(kennel: Kennel) -> None:
    kennel.run("frozen")
    kennel.now += 3600
    kennel.dog.look()
    assert kennel.store.told == []
    with pytest.raises(Ending):
        kennel.passes(12)


def test_who_is_not_in_the_engine_may_take_its_time(kennel: Kennel) -> None:
    kennel.runs.open(Made(job_id="uploading").context)
    kennel.passes(100)
    assert kennel.store.told == []


def test_the_last_snapshot_is_watched_as_any_step(kennel: Kennel) -> None:
    """It is made on the device, outside the engine's run."""
    context = Made(job_id="drained").context
    context.progress("sample", 1, 2)
    kennel.runs.open(context)
    snapshots = Snapshots(None, None, 5.0, FailPoints())  # type: ignore[arg-type]

    def hangs() -> bytes:
        kennel.passes(12)
        return b""

    context.snapshots.offered(1, hangs)
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
    dog = Watchdog(
        kennel.runs, kennel.device_lock, kennel.store, step_timeout_s=0.5, lease_s=15.0, shut=kennel.shut,
        end=kennel.end,
    )  # type: ignore[arg-type]  # fmt: skip
    dog.thread.once()
    context = kennel.run("busy")
    dog.thread.once()
    kennel.runs.close(context)
    dog.thread.once()
    assert armed == [None, 30.0, None]
