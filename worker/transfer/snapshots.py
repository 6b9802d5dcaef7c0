"""Keeps what long runs have reached, so that the next attempt goes on from there instead of from zero.

A snapshot is an object under the job's prefix, and a note of it on the record, written by a script that refuses late
attempts. The older one is deleted when a newer one is noted, all of them when a worker has ended the job; what ended
without a worker (cancelled in the queue, workers lost too often) keeps them until its retention is over.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from dataclasses import dataclass, field

from shared.errors import DreamqueueError, LeaseLost, NotFound, ObjectStoreUnavailable, Stopped, Unavailable
from shared.logs import get_logger
from shared.metrics import SNAPSHOTS, UPLOADED_BYTES
from shared.records.job import SavedRun
from shared.storage import ObjectStore, StoredObject, snapshot_key, snapshot_prefix
from shared.store.jobs import JobStore, Signal
from worker.run.context import JobContext
from worker.run.failpoints import BEFORE_SNAPSHOT, FailPoints
from worker.run.hooks import Ended, Hook
from worker.run.retry import retry_while_away
from worker.run.snapshot_slot import Offer
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


class Snapshots(Hook):
    """One thread; engines never wait for it. At most one snapshot per run is on its way, besides the last one."""

    def __init__(self, store: JobStore, objects: ObjectStore, every_s: float, failpoints: FailPoints) -> None:
        self._store = store
        self._objects = objects
        self._every_s = every_s
        self._failpoints = failpoints
        self._orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self.thread = PeriodicThread("snapshots", 0.0, self._next)

    # --- for the run's own thread ----------------------------------------------------------------------------------

    def snapshot_offered(self, context: JobContext) -> None:
        """Taken when the last time is `every_s` ago, longer after a large one."""
        slot = context.snapshots
        if not self._every_s or slot.offer is None:
            return
        every_s = self._every_s * max(1.0, slot.saved.bytes / EASY_BYTES if slot.saved else 0.0)
        if not slot.is_due(every_s):
            return
        order = _made(context, slot.offer)
        if order is None:
            slot.ended()
            return
        slot.started()
        self._orders.put(order)

    def before_release(self, context: JobContext, cause: DreamqueueError) -> None:
        """A run that was stopped keeps what it reached; one that a server's outage ended kept nothing on the device."""
        if isinstance(cause, Stopped):
            self.save_last(context)

    def save_last(self, context: JobContext) -> None:
        """The run was stopped and goes back: save what it reached, within LAST_PATIENCE_S. Never raises."""
        offer = context.snapshots.offer
        if not self._every_s or offer is None or context.snapshots.has_saved(offer.step):
            return
        with context.in_engine():  # `make` may hang as any step may
            order = _made(context, offer)
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

    def after_run(self, context: JobContext, ended: Ended) -> None:
        """Where the job has ended, nothing goes on from its snapshots: they are deleted."""
        if ended.is_final and context.snapshots.saved:
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
            order.context.snapshots.ended()
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
        before = context.snapshots.noted(_saved(order.step, stored))
        if before is not None and before.key != stored.key:
            self._objects.delete(before.key)

    def _note(self, context: JobContext, step: int, stored: StoredObject) -> bool:
        with context.writing() as may_write:
            if not may_write:
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
