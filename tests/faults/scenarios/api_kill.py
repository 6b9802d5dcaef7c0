"""kill -9 of all API processes while callers are in the middle of submitting."""

from __future__ import annotations

from tests.faults.report import Row
from tests.faults.storm import Run, Storm
from tests.support.polling import eventually

__all__ = ["run"]


def run(run: Run) -> Row:
    """20 kills, 500 jobs; what was asked twice under one id is one job."""
    kills, jobs = run.pick(20, 1), run.pick(500, 40)
    with Storm.of(run, per_s=60, load={"callers": 8}) as storm:

        def kill() -> None:
            """While answers come, not while it still starts."""
            wanted = len(storm.load.accepted) + jobs // kills
            eventually(lambda: len(storm.load.accepted) >= wanted, what="accepted jobs")
            storm.cluster.kill_api()

        storm.rage(kill, faults=kills, jobs=jobs, every_s=(0.0, 0.4))
        row = Row.of("api_kill", run.seed, storm.verdict(), kills=kills)
    row.expect(row.accepted >= jobs, f"only {row.accepted} jobs were accepted")
    row.expect(run.short or "cut" in row.extra["answers"], "no request was cut: the kills hit nothing")
    return row
