"""Housekeeping that any number of workers may do at once: every sweep is an idempotent script in the store."""

from __future__ import annotations

import time
from dataclasses import asdict

from shared.errors import NotFound, ObjectStoreUnavailable, StoreUnavailable
from shared.logs import get_logger
from shared.metrics import REAPED
from shared.settings import Settings
from shared.storage import ObjectStore, job_prefix
from shared.store import JobStore
from worker.periodic import Periodic

__all__ = ["Reaper"]

log = get_logger(__name__)

EXPIRY_EVERY_S = 30.0  # how often results past their retention are looked for
BATCH = 100  # jobs one sweep moves at most; the next goes on at once while there are more


class Reaper:
    """One thread: leases that ran out, retries that are due, doorbells that are missing, results past their time."""

    def __init__(self, store: JobStore, objects: ObjectStore, settings: Settings) -> None:
        self._store = store
        self._objects = objects
        self._patience_s = settings.beat_s
        self._resume_at = 0.0
        self._expiry_at = 0.0
        self.thread = Periodic("reaper", settings.reap_period_s, self.sweep)

    def sweep(self) -> None:
        """One round. After an outage of the store, leases are left alone until every live worker had its beat."""
        try:
            if time.monotonic() >= self._resume_at:
                self._reap()
            self._promote()
            if time.monotonic() >= self._expiry_at:
                self._expire()
                self._expiry_at = time.monotonic() + min(EXPIRY_EVERY_S, 30 * self.thread.period_s)
        except StoreUnavailable:
            self._resume_at = time.monotonic() + self._patience_s
            raise

    def _reap(self) -> None:
        for what, count in asdict(self._store.reap(BATCH)).items():
            if count:
                REAPED.labels(what).inc(count)
                log.warning("reaped", what=what, count=count)

    def _promote(self) -> None:
        promoted, rung = self._store.promote(BATCH)
        if promoted:
            REAPED.labels("promoted").inc(promoted)
        if rung:
            REAPED.labels("rung").inc(rung)

    def _expire(self) -> None:
        """Artifacts first, then the record: a crash in between leaves something to find again."""
        for tenant, job_id in self._store.due_for_expiry(BATCH):
            try:
                self._objects.delete_prefix(job_prefix(tenant, job_id))
            except NotFound:
                pass  # another reaper was faster
            except ObjectStoreUnavailable as error:
                log.warning("artifacts could not be deleted", job_id=job_id, error=error.message)
                return
            self._store.forget(tenant, job_id)
            REAPED.labels("forgotten").inc()
