"""What is known of pools and workers, read at most once a second per process: admission and ETAs lean on it."""

from __future__ import annotations

import time
from collections.abc import Callable

from shared.records.job import JobRecord, JobState
from shared.store.jobs import JobStore
from shared.store.workers import PoolInfo

__all__ = ["Fleet", "eta_s"]

FRESH_S = 1.0  # a snapshot's life; a new worker's models are known to the door within this


class Fleet:
    """A snapshot of all pools. While one request refreshes it, the others use the old one."""

    def __init__(self, store: JobStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._pools: dict[str, PoolInfo] = {}
        self._fresh_until = float("-inf")

    def pool(self, name: str) -> PoolInfo:
        """The pool as it was at most a second ago; an unknown one is empty."""
        if self._clock() >= self._fresh_until:
            self._fresh_until = self._clock() + FRESH_S
            try:
                self._pools = {pool.name: pool for pool in self._store.fleet.pools()}
            except BaseException:
                self._fresh_until = float("-inf")
                raise
        return self._pools.get(name) or PoolInfo(name, 0, 0, 0, [], {})


def eta_s(record: JobRecord, pool: PoolInfo, position: int | None, now_ms: int) -> float | None:
    """Seconds until the job should have ended, from the pool's average run time; None where nothing is known.

    Queued: whole turns of the pool's slots before it, then its own run. Running: what its progress leaves.
    """
    pace_s = pool.pace_s.get(record.kind)
    if record.state == JobState.RUNNING:
        return _left_s(record, pace_s, now_ms)
    slots = sum(worker.slots for worker in pool.workers if worker.state == "ready")
    if record.state != JobState.QUEUED or record.paused or pace_s is None or slots == 0:
        return None
    if position is None:  # waits for a retry
        delay_s = max(0, (record.due_at_ms or now_ms) - now_ms) / 1000
        return round(delay_s + pace_s, 3)
    before = max(0, position + pool.running_jobs - slots + 1)
    return round(pace_s * (1 + before / slots), 3)


def _left_s(record: JobRecord, pace_s: float | None, now_ms: int) -> float | None:
    started_at_ms = record.attempts[-1].started_at_ms if record.attempts else record.started_at_ms
    if started_at_ms is None:
        return None
    ran_s = max(0, now_ms - started_at_ms) / 1000
    fraction = record.progress.get("fraction")
    if isinstance(fraction, int | float) and fraction > 0.02:
        return round(ran_s * (1 - min(fraction, 1.0)) / fraction, 3)
    return None if pace_s is None else round(max(0.0, pace_s - ran_s), 3)
