"""Writes the runs' progress, for all of them from one thread, so that engines never wait for Redis."""

from __future__ import annotations

import threading
import time
from typing import Any

from shared.errors import StoreUnavailable
from shared.store.jobs import JobStore
from worker.run.context import JobMonitor
from worker.threads import Periodic

__all__ = ["Reports"]

PERIOD_S = 0.1  # a job's progress is written at most ten times a second


class Reports:
    """Remembers whose progress changed; the first change of a quiet job is written at once."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._changed: dict[int, JobMonitor] = {}
        self._any = threading.Event()
        self.thread = Periodic("reports", PERIOD_S, self._write_changed)

    def note(self, monitor: JobMonitor) -> None:
        """This run's progress moved."""
        with self._lock:
            self._changed[id(monitor)] = monitor
        self._any.set()

    def _write_changed(self) -> None:
        if not self._any.wait(1.0):
            return
        self._any.clear()
        with self._lock:
            changed, self._changed = self._changed, {}
        for monitor in changed.values():
            self.write(monitor)

    def write(self, monitor: JobMonitor, event: str = "progress", data: dict[str, Any] | None = None) -> bool:
        """Write what the monitor holds now; False when the run is over or the store does not answer."""
        with monitor.writing:
            if monitor.is_closed:
                return False
            sent_at = time.monotonic()
            try:
                signal = self._store.progress(monitor.claim, monitor.latest, event=event, data=data)
            except StoreUnavailable:
                return False  # progress is worth nothing later; leases are the heartbeat's business
        monitor.renewed(sent_at, signal)
        return True
