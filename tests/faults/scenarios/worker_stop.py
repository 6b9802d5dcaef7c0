"""SIGSTOP of a worker for longer than its lease: it wakes up believing that its jobs are still its own.

Half of the stops come at random; the other half are a job that freezes its process in the gap between upload and
commit, so that waking up means committing late.
"""

from __future__ import annotations

import os
import signal
import time

from tests.faults.cluster import LEASE_S, TENANT
from tests.faults.effects import FREEZES_BEFORE_COMMIT
from tests.faults.report import Row
from tests.faults.storm import Run, Storm
from tests.support.polling import eventually

__all__ = ["run"]

PAST_LEASE_S = 1.5


def run(run: Run) -> Row:
    """20 stops, 500 jobs; late commits are refused and counted."""
    stops, jobs = run.pick(20, 2), run.pick(500, 40)
    with Storm.of(run, per_s=8) as storm:
        numbers = iter(range(stops))

        def stop() -> None:
            _freeze_before_commit(storm) if next(numbers) % 2 else _stop_at_random(storm)

        storm.rage(stop, faults=stops, jobs=jobs, every_s=(0.2, 1.0))
        verdict = storm.verdict()
        row = Row.of("worker_stop", run.seed, verdict, stops=stops, lease_s=LEASE_S, fenced=storm.fenced())
    frozen = stops // 2
    row.expect(verdict.late_commits >= frozen, f"{verdict.late_commits} late commits of {frozen} frozen ones came")
    row.expect(row.extra["fenced"] >= verdict.late_commits, "a late commit was not counted")
    row.expect(row.accepted >= jobs, f"only {row.accepted} jobs were accepted")
    return row


def _stop_at_random(storm: Storm) -> None:
    station = storm.busy_station()
    assert station.process
    storm.cluster.signal_worker(station, signal.SIGSTOP, "stop")
    time.sleep(LEASE_S + PAST_LEASE_S)
    station.process.signal(signal.SIGCONT)


def _freeze_before_commit(storm: Storm) -> None:
    """A job that stops the worker it runs on; whichever that is, it is found by its state and woken again."""
    job_id = storm.load.give_one({"kind": "probe", "input": {"write_bytes": FREEZES_BEFORE_COMMIT}})
    station = eventually(
        lambda: next((s for s in storm.cluster.stations if s.process and _is_stopped(s.process.pid)), None),
        what="the worker that freezes itself",
    )
    assert station.process
    storm.cluster.ledger.note("stop", worker=station.name)
    time.sleep(LEASE_S + PAST_LEASE_S)
    eventually(lambda: storm.cluster.store.get(TENANT, job_id).attempt > 1, what="the job's next attempt")
    os.kill(station.process.pid, signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"
