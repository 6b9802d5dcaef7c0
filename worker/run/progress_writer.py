"""Writes the runs' progress, for all of them from one thread, so that engines never wait for Redis."""

from __future__ import annotations

import threading
import time
from typing import Any

from shared.errors import StoreUnavailable
from shared.store.jobs import JobStore
from worker.run.context import JobContext
from worker.run.hooks import Hook
from worker.threads import PeriodicThread

__all__ = ["ProgressWriter"]

PERIOD_S = 0.1  # a job's progress is written at most ten times a second


class ProgressWriter(Hook):
    """Remembers whose progress changed; the first change of a quiet job is written at once."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._changed: dict[int, JobContext] = {}
        self._any = threading.Event()
        self.thread = PeriodicThread("progress", PERIOD_S, self._write_changed)

    def progressed(self, context: JobContext) -> None:
        """To be written with the next round."""
        with self._lock:
            self._changed[id(context)] = context
        self._any.set()

    def _write_changed(self) -> None:
        if not self._any.wait(1.0):
            return
        self._any.clear()
        with self._lock:
            changed, self._changed = self._changed, {}
        for context in changed.values():
            self.write(context)

    def write(self, context: JobContext, event: str = "progress", data: dict[str, Any] | None = None) -> bool:
        """Write what the context holds now; False when the run is over or the store does not answer."""
        with context.writing() as may_write:
            if not may_write:
                return False
            sent_at = time.monotonic()
            try:
                signal = self._store.progress(context.claim, context.latest, event=event, data=data)
            except StoreUnavailable:
                return False  # progress is worth nothing later; leases are the heartbeat's business
        context.stop_signal.renewed(sent_at, signal)
        return True
