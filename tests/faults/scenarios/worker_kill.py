"""kill -9 of workers, at random moments, while they are busy."""

from __future__ import annotations

from tests.faults.cluster import LEASE_S
from tests.faults.report import Row
from tests.faults.storm import Run, Storm

__all__ = ["EVERY_S", "PER_S", "SPARED", "WORKERS", "run"]

WORKERS, SPARED = 4, 1  # one is always left; the others may be dead or on their way back
PER_S = 10
EVERY_S = (0.4, 2.0)


def run(run: Run) -> Row:
    """100 kills, 2,000 jobs; recovered within the lease and 5 s. What loses three workers fails, and is counted."""
    kills, jobs = run.pick(100, 3), run.pick(2_000, 40)
    with Storm.of(run, per_s=PER_S, workers=WORKERS) as storm:

        def kill() -> None:
            storm.wait_alive(SPARED + 1)
            storm.cluster.kill_worker(storm.busy_station())

        storm.rage(kill, faults=kills, jobs=jobs, every_s=EVERY_S)
        row = Row.of("worker_kill", run.seed, storm.verdict(), kills=kills, lease_s=LEASE_S, fenced=storm.fenced())
    row.expect(row.accepted >= jobs, f"only {row.accepted} jobs were accepted")
    row.expect_recovered(LEASE_S + 5, short=run.short)
    return row
