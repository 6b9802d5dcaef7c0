"""Hosts whose clocks are ten minutes wrong, either way: leases, fences and expiry know only Redis' time.

The wrong clock is a sitecustomize (tests/faults/clock) that shifts what Python reads as the time of day, in worker and
API processes alike; monotonic time is left as it is.
"""

from __future__ import annotations

from pathlib import Path

from tests.faults.cluster import LEASE_S, Station
from tests.faults.report import Row
from tests.faults.storm import Run, Storm

__all__ = ["run"]

SHIFT_S = 600
CLOCK = Path(__file__).parents[1] / "clock"


def run(run: Run) -> Row:
    """10 kills of workers whose clocks disagree by 20 minutes, an API that is late as well; 200 jobs."""
    kills, jobs = run.pick(10, 2), run.pick(200, 30)
    shifts = [SHIFT_S, -SHIFT_S, 0]
    stations = [Station(number, env=_env(shift)) for number, shift in enumerate(shifts)]
    with Storm.of(run, per_s=6, stations=stations, api_env=_env(-SHIFT_S)) as storm:
        told = [info.started_at_ms for info in storm.cluster.store.fleet.workers()]

        def kill() -> None:
            storm.wait_alive(2)
            storm.cluster.kill_worker(storm.busy_station())

        storm.rage(kill, faults=kills, jobs=jobs, every_s=(0.8, 2.4))
        row = Row.of("clock_skew", run.seed, storm.verdict(), kills=kills, shifts_s=shifts, api_shift_s=-SHIFT_S,
                     lease_s=LEASE_S)  # fmt: skip
        records = [storm.cluster.store.get("faults", job_id) for job_id in storm.load.accepted]
    row.expect(max(told) - min(told) > SHIFT_S * 1900, "the clocks were not shifted")
    row.expect(
        all((record.finished_at_ms or 0) - record.created_at_ms < SHIFT_S * 500 for record in records),
        "a host's clock came into a record",
    )
    row.expect_recovered(LEASE_S + 5, short=run.short)
    return row


def _env(shift_s: int) -> dict[str, str]:
    return {"PYTHONPATH": str(CLOCK), "FAULTS_CLOCK_SHIFT_S": str(shift_s)}
