"""kill -9 of Redis under load; it comes back on the same append-only file."""

from __future__ import annotations

from tests.faults.history import histories
from tests.faults.report import Row
from tests.faults.storm import NO_HANG_S, Run, Storm
from tests.faults.verdict import quantile

__all__ = ["run"]

WITHIN_S = 5.0
PAUSE = (1.5, 4.0)
BRIEF, LONG = (0.2, 1.5), (8.0, 12.0)  # how long it is away; every fifth time so long that clients try less often


def run(run: Run) -> Row:
    """20 kills, 500 jobs; the first claim within 5 s of its return."""
    kills, jobs = run.pick(20, 2), run.pick(500, 40)
    with Storm.of(run, per_s=8) as storm:
        away_s = (storm.rng.uniform(*(LONG if number % 5 == 3 else BRIEF)) for number in range(kills))
        storm.rage(lambda: storm.cluster.kill_redis(next(away_s)), faults=kills, jobs=jobs, every_s=PAUSE)
        verdict = storm.verdict()
        entries = storm.cluster.ledger.read("event", "back")
        row = Row.of("redis_kill", run.seed, verdict, kills=kills, fenced=storm.fenced(),
                     slowest_answer_s=round(storm.load.slowest_answer_s, 2))  # fmt: skip
    starts = sorted(event.at for events in histories(entries).values() for event in events if event.type == "started")
    returns = [entry.at for entry in entries if entry.what == "back"]
    waits = sorted(next((at for at in starts if at >= back), back + 999) - back for back in returns)
    row.recovery_p50_s, row.recovery_p99_s = quantile(waits, 0.5), quantile(waits, 0.99)
    row.expect(row.accepted >= jobs, f"only {row.accepted} jobs were accepted")
    row.expect_recovered(WITHIN_S, short=run.short)
    slowest_s = storm.load.slowest_answer_s
    row.expect(run.short or slowest_s < NO_HANG_S, f"a caller waited {slowest_s:.1f} s")
    return row
