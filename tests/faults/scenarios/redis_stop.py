"""SIGSTOP of Redis for 30 s: it does not refuse, it says nothing. Callers must hear 503, not wait."""

from __future__ import annotations

import signal
import time

from tests.faults.report import Row
from tests.faults.storm import NO_HANG_S, Run, Storm

__all__ = ["run"]


def run(run: Run) -> Row:
    """Twice, 200 jobs."""
    times, seconds, jobs = run.pick(2, 1), run.pick(30, 4), run.pick(200, 30)
    with Storm.of(run, per_s=5) as storm:
        process = storm.cluster.redis

        def freeze() -> None:
            storm.cluster.ledger.note("cut", worker="redis")
            process.process.signal(signal.SIGSTOP)
            time.sleep(seconds)
            process.process.signal(signal.SIGCONT)
            storm.cluster.ledger.note("back", worker="redis")

        storm.rage(freeze, faults=times, jobs=jobs, every_s=(2.0, 3.0))
        refused = storm.cluster.ledger.read("refused")
        row = Row.of("redis_stop", run.seed, storm.verdict(), times=times, seconds=seconds, fenced=storm.fenced(),
                     slowest_answer_s=round(storm.load.slowest_answer_s, 2))  # fmt: skip
    slowest_s = storm.load.slowest_answer_s
    row.expect(run.short or slowest_s < NO_HANG_S, f"a caller waited {slowest_s:.1f} s")
    row.expect(bool(refused), "no caller was refused: the freeze hit nothing")
    told_when = all(one.data["status"] == 503 and one.data["retry_after"] for one in refused)
    row.expect(told_when, "a refusal was not 503 with Retry-After")
    return row
