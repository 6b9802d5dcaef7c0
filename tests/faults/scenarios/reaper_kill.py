"""The reaper dies too: a second worker is killed just when it returns the first one's jobs to the queue."""

from __future__ import annotations

import time

from tests.faults.cluster import LEASE_S, REAP_S
from tests.faults.report import Row
from tests.faults.storm import Run, Storm

__all__ = ["run"]


def run(run: Run) -> Row:
    """20 pairs of kills, the second around the moment the first one's leases end; 300 jobs."""
    pairs, jobs = run.pick(20, 1), run.pick(300, 40)
    with Storm.of(run, per_s=6, workers=4) as storm:

        def kill_two() -> None:
            storm.wait_alive(3)
            storm.cluster.kill_worker(storm.busy_station())
            time.sleep(LEASE_S - REAP_S + storm.rng.uniform(0.0, 3 * REAP_S))
            storm.cluster.kill_worker(storm.busy_station())

        storm.rage(kill_two, faults=pairs, jobs=jobs, every_s=(0.3, 1.0))
        row = Row.of("reaper_kill", run.seed, storm.verdict(), kills=2 * pairs, lease_s=LEASE_S)
    row.expect_recovered(LEASE_S + 5, short=run.short)
    return row
