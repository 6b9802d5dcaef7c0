"""Housekeeping that any number of workers may do at once: every sweep is an idempotent script in the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict

from shared.errors import NotFound, ObjectStoreUnavailable
from shared.logs import get_logger
from shared.metrics import REAPED
from shared.settings import Settings
from shared.storage import ObjectStore, job_prefix
from shared.store.jobs import JobStore
from worker.threads import PeriodicThread

__all__ = ["Reaper"]

log = get_logger(__name__)

EXPIRY_EVERY_S = 30.0  # how often results past their retention are looked for
BATCH = 100  # jobs one script moves at most
ROUNDS = 10  # scripts one sweep runs at most, while each finds a full batch; the rest waits a period


class Reaper:
    """One thread: leases that ran out, retries that are due, doorbells that are missing, results past their time."""

    def __init__(self, store: JobStore, objects: ObjectStore, settings: Settings) -> None:
        self._store = store
        self._objects = objects
        self._expiry_at = 0.0
        self.thread = PeriodicThread("reaper", settings.reap_period_s, self.sweep)

    def sweep(self) -> None:
        """One round. Goes on at once while there is more than a batch, up to ROUNDS batches."""
        _drain(self._reap)
        _drain(self._promote)
        if time.monotonic() >= self._expiry_at and not self._expire():
            self._expiry_at = time.monotonic() + min(EXPIRY_EVERY_S, 30 * self.thread.period_s)

    def _reap(self) -> int:
        reaped = asdict(self._store.sweeps.reap(BATCH))
        for what, count in reaped.items():
            if count:
                REAPED.labels(what).inc(count)
                log.warning("reaped", what=what, count=count)
        return sum(reaped.values())

    def _promote(self) -> int:
        promoted, rung = self._store.sweeps.promote(BATCH)
        if promoted:
            REAPED.labels("promoted").inc(promoted)
        if rung:
            REAPED.labels("rung").inc(rung)
        return max(promoted, rung)

    def _expire(self) -> bool:
        """Whether there is more, for the next sweep: deleting is slow, and leases do not wait for it. Artifacts first,
        then the record: a crash in between leaves something to find again."""
        due = self._store.sweeps.due_for_expiry(BATCH)
        for tenant, job_id in due:
            try:
                self._objects.delete_prefix(job_prefix(tenant, job_id))
            except NotFound:
                pass  # another reaper was faster
            except ObjectStoreUnavailable as error:
                log.warning("artifacts could not be deleted", job_id=job_id, error=error.message)
                return False
            self._store.sweeps.forget(tenant, job_id)
            REAPED.labels("forgotten").inc()
        return len(due) == BATCH


def _drain(step: Callable[[], int]) -> None:
    """Repeat while full batches come."""
    for _ in range(ROUNDS):
        if step() < BATCH:
            return
