"""Whether this worker may claim: not while it could not bring home what it makes.

Threads wait here, so that a worker that can do nothing hears no doorbells: they ring for the healthy ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from shared.errors import DreamqueueError, ObjectStoreUnavailable
from shared.logs import get_logger
from shared.storage import ObjectStore
from worker.run.context import JobContext
from worker.run.hooks import Hook
from worker.threads import PeriodicThread
from worker.transfer.spool import Spool

__all__ = ["ClaimGate"]

log = get_logger(__name__)

CHECK_S = 1.0  # between two looks at an object store that was away
LOOK_AGAIN_S = 0.25  # how late a waiting thread notices room in the spool, or that the worker stops


class ClaimGate(Hook):
    """Thread-safe. Closed while the spool is full, and from pause_until_store_back() until the object store answers
    again."""

    def __init__(self, spool: Spool, objects: ObjectStore, is_draining: Callable[[], bool]) -> None:
        self._spool = spool
        self._objects = objects
        self._is_draining = is_draining
        self._is_away = threading.Event()
        self._changed = threading.Condition()
        self.thread = PeriodicThread("claim-gate", CHECK_S, self.look)

    @property
    def is_open(self) -> bool:
        """Whether more may be claimed."""
        return not (self._is_away.is_set() or self._spool.is_full)

    def pause_until_store_back(self) -> None:
        """The object store did not answer for as long as a run's patience lasts."""
        if not self._is_away.is_set():
            log.warning("object store away; nothing is claimed until it answers")
        self._is_away.set()

    def before_release(self, _context: JobContext, cause: DreamqueueError) -> None:
        """A job goes back since the object store is away: the next one would, too."""
        if isinstance(cause, ObjectStoreUnavailable):
            self.pause_until_store_back()

    def wait(self) -> bool:
        """Until it is open: True; or until the worker drains: False."""
        with self._changed:
            while not (self.is_open or self._is_draining()):
                self._changed.wait(LOOK_AGAIN_S)
        return not self._is_draining()

    def look(self) -> None:
        """Ask the object store whether it is back, if it was away."""
        if not self._is_away.is_set():
            return
        try:
            self._objects.check()
        except ObjectStoreUnavailable:
            return
        log.info("object store back")
        self._is_away.clear()
        with self._changed:
            self._changed.notify_all()
