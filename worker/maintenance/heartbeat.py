"""Keeps this worker's leases and its place in the list of workers: one round trip per beat for all its jobs."""

from __future__ import annotations

import time
from collections.abc import Callable

from shared.errors import LeaseLost, StoreUnavailable
from shared.logs import get_logger
from shared.metrics import BEAT_SECONDS
from shared.store.jobs import JobStore
from shared.store.workers import WorkerInfo
from worker.run.active import ActiveRuns
from worker.threads import PeriodicThread

__all__ = ["Heartbeat"]

log = get_logger(__name__)


class Heartbeat:
    """One thread. What the store answers goes to the runs' contexts. Jobs of the `resumable` kinds may be called away
    for a high one while every slot is taken."""

    def __init__(
        self,
        store: JobStore,
        runs: ActiveRuns,
        describe: Callable[[], WorkerInfo],
        period_s: float,
        resumable: frozenset[str] = frozenset(),
    ) -> None:
        self._store = store
        self._runs = runs
        self._describe = describe
        self._resumable = resumable
        self._beaten_at = 0.0
        self.thread = PeriodicThread("heartbeat", period_s, self.beat)

    def beat(self) -> None:
        """Renew all leases, then tell the world. Raises StoreUnavailable, after giving up what cannot be ours."""
        now = time.monotonic()
        try:
            info = self._describe()
            self._renew(now, is_full=info.busy >= info.slots)
            self._store.fleet.announce(info)
        except StoreUnavailable:
            self._give_up_overdue()
            raise
        if self._beaten_at:
            BEAT_SECONDS.observe(now - self._beaten_at)
        self._beaten_at = now

    def _renew(self, now: float, *, is_full: bool) -> None:
        contexts = self._runs.all()
        if not contexts:
            return
        claims = [context.claim for context in contexts]
        signals = self._store.beat(claims, is_full=is_full, resumable=self._resumable)
        for context, signal in zip(contexts, signals, strict=True):
            context.stop_signal.renewed(now, signal)

    def _give_up_overdue(self) -> None:
        """Leases that ran out while the store was silent may be another worker's by now."""
        now = time.monotonic()
        for context in self._runs.all():
            if now > context.stop_signal.lease_until:
                log.warning("lease presumed lost", job_id=context.claim.id, attempt=context.claim.attempt)
                context.stop(LeaseLost("the lease could not be renewed in time"))
