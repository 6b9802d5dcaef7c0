"""SIGTERM under load and a rolling restart of all workers: nobody is blamed, and little work is done again."""

from __future__ import annotations

import itertools
import signal
import time

from tests.faults.cluster import LEASE_S
from tests.faults.history import histories
from tests.faults.load import longer_probe
from tests.faults.report import Row
from tests.faults.storm import Run, Storm
from tests.faults.verdict import quantile
from tests.support.polling import eventually

__all__ = ["run"]

GRACE_S = 0.6  # so short that some jobs end within and some do not
BEYOND_GRACE_S = 7.5  # for last uploads and snapshots, and for the process to end


def run(run: Run) -> Row:
    """12 restarts, 200 jobs."""
    restarts, jobs = run.pick(12, 2), run.pick(200, 30)
    took: list[float] = []
    codes: set[int | None] = set()
    with Storm.of(run, per_s=6, load={"spec": longer_probe}, drain_grace_s=GRACE_S) as storm:
        numbers = iter(range(restarts))

        def restart() -> None:
            station = storm.cluster.stations[next(numbers) % len(storm.cluster.stations)]
            storm.wait_alive(len(storm.cluster.stations))  # one at a time, as whoever rolls a fleet does
            eventually(lambda: storm.cluster.running_on(station) > 0, what="a job to drain")
            assert station.process
            process = station.process
            storm.cluster.signal_worker(station, signal.SIGTERM, "term")
            asked_at = time.monotonic()
            eventually(lambda: process.exit_code is not None, what="the drained worker's end")
            took.append(time.monotonic() - asked_at)
            codes.add(process.exit_code)

        storm.rage(restart, faults=restarts, jobs=jobs, every_s=(0.3, 0.8))
        verdict = storm.verdict()
        records = [storm.cluster.store.get("faults", job_id) for job_id in storm.load.accepted]
        without_redis_s = None if run.short else _without_redis(storm)
        row = Row.of("drain", run.seed, verdict, restarts=restarts, grace_s=GRACE_S, lease_s=LEASE_S,
                     drain_p99_s=quantile(took, 0.99), drain_without_redis_s=without_redis_s,
                     given_back=sum(record.attempt > 1 for record in records),
                     device_s_repeated=round(_given_back_s(storm), 2))  # fmt: skip
    limit_s = storm.cluster.settings.stop_within_s
    row.expect(run.short or (without_redis_s or 99.0) <= limit_s, f"a drain without Redis took {without_redis_s} s")
    late_s = row.extra["drain_p99_s"] - GRACE_S
    row.expect(run.short or late_s <= BEYOND_GRACE_S, f"a drain took {late_s:.1f} s more than its grace")
    row.expect(codes == {0}, f"exit codes {codes}")
    row.expect(not any(record.losses or record.failures for record in records), "a job was blamed for a drain")
    return row


def _without_redis(storm: Storm) -> float:
    """How long a worker with a running job takes to stop while Redis says nothing. After the verdict."""
    storm.load.give_one({"kind": "probe", "input": {"steps": 1000, "step_s": 0.05}})
    storm.wait_running()
    station = storm.busy_station()
    station.is_kept = False
    assert station.process
    storm.cluster.redis.process.signal(signal.SIGSTOP)
    try:
        asked_at = time.monotonic()
        storm.cluster.signal_worker(station, signal.SIGTERM, "term")
        eventually(lambda: station.process and station.process.exit_code is not None, what="the drained worker's end")
        return round(time.monotonic() - asked_at, 2)
    finally:
        storm.cluster.redis.process.signal(signal.SIGCONT)


def _given_back_s(storm: Storm) -> float:
    """Seconds of running that ended in the queue again."""
    jobs = histories(storm.cluster.ledger.read("event"))
    return sum(
        after.at - before.at
        for events in jobs.values()
        for before, after in itertools.pairwise(events)
        if (before.type, after.type) == ("started", "queued")
    )
