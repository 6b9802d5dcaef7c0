"""Redis is full (noeviction): what cannot be written whole is refused, and nothing is written half."""

from __future__ import annotations

import time
from typing import Any, cast

from tests.faults.cluster import TENANT
from tests.faults.report import Row
from tests.faults.storm import Run, Storm
from tests.support.polling import eventually

__all__ = ["run"]

ROOM_BYTES = 60_000


def run(run: Run) -> Row:
    """3 times for 8 s, 300 jobs."""
    times, seconds, jobs = run.pick(3, 1), run.pick(8, 3), run.pick(300, 40)
    with Storm.of(run, per_s=15) as storm:
        client = storm.cluster.client

        def fill() -> None:
            used = int(cast("dict[str, Any]", client.info("memory"))["used_memory"])
            client.config_set("maxmemory", used + ROOM_BYTES)
            time.sleep(seconds)
            eventually(lambda: storm.cluster.ledger.read("refused"), what="a caller that was refused")
            client.config_set("maxmemory", 0)

        storm.rage(fill, faults=times, jobs=jobs, every_s=(1.0, 2.0))
        refused = storm.cluster.ledger.read("refused")
        row = Row.of("redis_full", run.seed, storm.verdict(), times=times, seconds=seconds, fenced=storm.fenced(),
                     slowest_answer_s=round(storm.load.slowest_answer_s, 2))  # fmt: skip
        halves = _half_written(storm, set(storm.load.accepted))
    row.extra["half_written"] = len(halves)
    row.expect(not halves, f"half-written: {halves[:3]}")
    row.expect(bool(refused), "no caller was refused: it was never full")
    told_when = all(one.data["status"] == 503 and one.data["retry_after"] for one in refused)
    row.expect(told_when, "a refusal was not 503 with Retry-After")
    return row


def _half_written(storm: Storm, accepted: set[str]) -> list[str]:
    """Records nobody was told of, records without a spec or an end, and sets that name jobs without a record."""
    client = storm.cluster.client
    halves = []
    ids = {str(key).rpartition(":")[2] for key in client.scan_iter(f"dq:job:{TENANT}:*")}
    for job_id in ids:
        fields = client.hmget(f"dq:job:{TENANT}:{job_id}", ["spec", "state", "finished_at"])
        spec, state, end = cast("list[str | None]", fields)
        if job_id not in accepted or not spec or state != "succeeded" or not end:
            halves.append(f"{job_id} {state}")
    for name in ("dq:leases", "dq:delayed", "dq:deadlines"):
        halves += [f"{name} {ref}" for ref in cast("list[str]", client.zrange(name, 0, -1))]
    listed = set(cast("list[str]", client.zrange(f"dq:jobs:{TENANT}", 0, -1)))
    return halves + sorted(listed ^ ids)
