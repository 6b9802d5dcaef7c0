"""The jobs this process holds now."""

from __future__ import annotations

import threading

from shared import keys
from shared.errors import Cancelled, Draining, Yielded
from worker.monitor import JobMonitor

__all__ = ["Runs"]


class Runs:
    """Monitors by job. Once told to give up, it gives up every run, those that come later too."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._monitors: dict[str, JobMonitor] = {}
        self._gave_up = False

    def __len__(self) -> int:
        return len(self._monitors)

    def open(self, monitor: JobMonitor) -> None:
        """A claim was won."""
        with self._lock:
            self._monitors[_ref(monitor)] = monitor
            if self._gave_up:
                monitor.stop(Draining("the worker stops"))

    def close(self, monitor: JobMonitor) -> None:
        """The job is settled, or no longer ours."""
        with self._lock:
            if self._monitors.get(_ref(monitor)) is monitor:
                del self._monitors[_ref(monitor)]
            self._lock.notify_all()

    def all(self) -> list[JobMonitor]:
        """Those that run now."""
        with self._lock:
            return list(self._monitors.values())

    def cancel(self, ref: str) -> None:
        """The caller wants this job (`tenant:id`) to end; nothing happens if we do not hold it."""
        with self._lock:
            monitor = self._monitors.get(ref)
        if monitor:
            monitor.stop(Cancelled("cancelled by the caller"))

    def pause(self, ref: str) -> None:
        """The caller wants this job to stand still; it goes back to the queue, where it is held."""
        with self._lock:
            monitor = self._monitors.get(ref)
        if monitor:
            monitor.stop(Yielded("paused by the caller"))

    def give_up(self) -> None:
        """Stop every run at its next step; their jobs go back to the queue."""
        with self._lock:
            self._gave_up = True
            for monitor in self._monitors.values():
                monitor.stop(Draining("the worker stops"))

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Whether nothing runs any more."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._monitors, timeout_s)


def _ref(monitor: JobMonitor) -> str:
    return keys.ref(monitor.claim.tenant, monitor.claim.id)
