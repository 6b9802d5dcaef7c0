"""kill -9 in the named gaps: after the claim, before the upload, between upload and commit, after the commit."""

from __future__ import annotations

import itertools
import signal

from tests.faults.cluster import LEASE_S, Station
from tests.faults.report import Row
from tests.faults.storm import Run, Storm
from tests.support.polling import eventually

__all__ = ["run"]

POINTS = ("after_claim", "before_upload", "after_upload", "after_commit")


def run(run: Run) -> Row:
    """Each gap ten times, while 400 jobs pass."""
    rounds, jobs = run.pick(10, 1), run.pick(400, 40)
    doomed, steady = Station(0), Station(1)
    points = itertools.cycle(POINTS)
    doomed.env["FAULTS_FAILPOINT"] = _armed(next(points), 2)
    hit: dict[str, int] = {}
    with Storm.of(run, per_s=6, stations=[doomed, steady]) as storm:

        def die() -> None:
            """The present incarnation dies at its point; the next one is armed with the next."""
            assert doomed.process
            name, process = doomed.name, doomed.process
            point = doomed.env["FAULTS_FAILPOINT"].partition(":")[0]
            doomed.env["FAULTS_FAILPOINT"] = _armed(next(points), storm.rng.randint(1, 4))
            eventually(lambda: process.exit_code is not None, what=f"the death at {point}")
            assert process.exit_code == -signal.SIGKILL, process.tail()
            storm.cluster.ledger.note("kill", worker=name)
            hit[point] = hit.get(point, 0) + 1
            eventually(lambda: doomed.process is not process)

        storm.rage(die, faults=rounds * len(POINTS), jobs=jobs, every_s=(0.0, 0.1))
        doomed.env["FAULTS_FAILPOINT"] = ""
        storm.cluster.restart_workers()
        row = Row.of("failpoints", run.seed, storm.verdict(), hit=hit, lease_s=LEASE_S, fenced=storm.fenced())
    row.expect(set(hit) == set(POINTS), f"not every gap was hit: {hit}")
    row.expect_recovered(LEASE_S + 5, short=run.short)
    return row


def _armed(point: str, passes: int) -> str:
    return f"{point}:{passes}"
