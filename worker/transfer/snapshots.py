"""Keeps what long runs have reached, so that the next attempt goes on from there instead of from zero.

A snapshot is an object under the job's prefix, and a note of it on the record, written by a script that refuses late
attempts. The older one is deleted when a newer one is noted, all of them when a worker has ended the job; what ended
without a worker (cancelled in the queue, workers lost too often) keeps them until its retention is over.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from dataclasses import dataclass, field

from shared.errors import LeaseLost, NotFound, ObjectStoreUnavailable, Unavailable
from shared.logs import get_logger
from shared.metrics import SNAPSHOTS, UPLOADED_BYTES
from shared.records.job import SavedRun
from shared.storage import ObjectStore, StoredObject, snapshot_key, snapshot_prefix
from shared.store.jobs import JobStore, Signal
from worker.run.context import JobContext, Offer
from worker.run.failpoints import BEFORE_SNAPSHOT, FailPoints
from worker.run.retry import retry_while_away
from worker.threads import PeriodicThread

__all__ = ["Snapshots"]

log = get_logger(__name__)

FETCH_PATIENCE_S = 10.0  # beyond it a run starts from zero
EASY_BYTES = 8 * 2**20  # a snapshot of more is made as much more seldom: a video's frames would all go again and again
LAST_PATIENCE_S = 4.0  # a stopped run's last snapshot may take this long; then the one before it counts


@dataclass(frozen=True)
class _Order:
    """Store this (`body`), or delete all the job's snapshots (no body)."""

    context: JobContext
    step: int = 0
    body: bytes = b""
    done: threading.Event = field(default_factory=threading.Event)


class Snapshots:
    """One thread; engines never wait for it. At most one snapshot per run is on its way, besides the last one."""

    def __init__(self, store: JobStore, objects: ObjectStore, every_s: float, failpoints: FailPoints) -> None:
        self._store = store
        self._objects = objects
        self._every_s = every_s
        self._failpoints = failpoints
        self._orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self.thread = PeriodicThread("snapshots", 0.0, self._next)

    # --- for the run's own thread ----------------------------------------------------------------------------------

    def offered(self, context: JobContext) -> None:
        """The run can be saved as it is now: done when the last time is `every_s` ago, longer after a large one."""
        if not self._every_s or context.has_snapshot_in_flight or context.offer is None:
            return
        saved = context.saved or context.claim.snapshot
        every_s = self._every_s * max(1.0, saved.bytes / EASY_BYTES if saved else 0.0)
        if time.monotonic() - context.saved_at < every_s:
            return
        order = _made(context, context.offer)
        if order is None:
            context.saved_at = time.monotonic()
            return
        context.has_snapshot_in_flight = True
        self._orders.put(order)

    def save_last(self, context: JobContext) -> None:
        """The run was stopped and goes back: save what it reached, within LAST_PATIENCE_S. Never raises."""
        offer: Offer | None = context.offer
        if not self._every_s or offer is None or (context.saved and context.saved.step == offer.step):
            return
        context.moved_at, context.is_in_engine = time.monotonic(), True  # `make` may hang as any step may
        try:
            order = _made(context, offer)
        finally:
            context.is_in_engine = False
        if order is None:
            return
        self._orders.put(order)
        if not order.done.wait(LAST_PATIENCE_S):
            log.warning("last snapshot not stored in time", step=offer.step)

    def fetch(self, context: JobContext) -> bytes | None:
        """What an earlier attempt saved; None where there is nothing, or it is gone or damaged. Raises Stopped."""
        saved = context.claim.snapshot
        if saved is None:
            return None
        try:
            body = retry_while_away(lambda: self._objects.get(saved.key), context, FETCH_PATIENCE_S, keep_through=())
        except (NotFound, ObjectStoreUnavailable) as error:
            log.warning("snapshot ignored: it cannot be fetched", error=error.message)
            return None
        if hashlib.sha256(body).hexdigest() != saved.sha256:
            log.warning("snapshot ignored: it is damaged", key=saved.key)
            return None
        return body

    def discard(self, context: JobContext) -> None:
        """The job has ended: nothing goes on from its snapshots."""
        if context.saved or context.claim.snapshot:
            self._orders.put(_Order(context))

    # --- the thread ------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        try:
            order = self._orders.get(timeout=1.0)
        except queue.Empty:
            return
        try:
            if order.body:
                self._save(order.context, order)
            else:
                self._objects.delete_prefix(snapshot_prefix(order.context.claim.tenant, order.context.claim.id))
        except Unavailable as error:
            log.info("snapshot not stored or deleted", error=error.message)
        finally:
            order.context.saved_at = time.monotonic()
            order.context.has_snapshot_in_flight = False
            order.done.set()

    def _save(self, context: JobContext, order: _Order) -> None:
        if context.is_closed:
            return
        self._failpoints.passing(BEFORE_SNAPSHOT)
        claim = context.claim
        key = snapshot_key(claim.tenant, claim.id, claim.attempt, order.step)
        stored = self._objects.put(key, order.body, "application/octet-stream")
        UPLOADED_BYTES.labels("snapshot").inc(stored.bytes)
        if not self._note(context, order.step, stored):
            self._objects.delete(stored.key)
            return
        SNAPSHOTS.labels(claim.kind).inc()
        before, context.saved = context.saved or claim.snapshot, _saved(order.step, stored)
        if before is not None and before.key != stored.key:
            self._objects.delete(before.key)

    def _note(self, context: JobContext, step: int, stored: StoredObject) -> bool:
        with context.writing:
            if context.is_closed:
                return False
            signal = self._store.note_snapshot(context.claim, _saved(step, stored))
        if signal is Signal.LOST:
            context.stop(LeaseLost("another attempt owns this job"))
        return signal is not Signal.LOST


def _made(context: JobContext, offer: Offer) -> _Order | None:
    """A run is not worth failing for its snapshot."""
    try:
        return _Order(context, offer.step, offer.make())
    except Exception:
        log.exception("no snapshot", step=offer.step)
        return None


def _saved(step: int, stored: StoredObject) -> SavedRun:
    return SavedRun(stored.key, step, stored.bytes, stored.sha256)
