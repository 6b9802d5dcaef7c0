"""Ends a worker before its leaks do: it drains, exits with 0, and its supervisor starts a new one.

In place of Celery's max_tasks_per_child, which counts processes of a pool that has none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from shared.logs import get_logger
from worker.engines.scheduling.memory import resident_bytes
from worker.run.context import JobContext
from worker.run.hooks import Ended, Hook
from worker.threads import PeriodicThread

__all__ = ["WARM_JOBS", "Recycler"]

log = get_logger(__name__)

WARM_JOBS = 10  # caches and allocators fill with the first jobs; growth counts from there
LOOK_EVERY_S = 5.0


class Recycler(Hook):
    """A hook that counts jobs, and a thread that looks at memory. `leave` is called once."""

    def __init__(self, after_jobs: int, rss_growth: float, leave: Callable[[], None]) -> None:
        self._after_jobs = after_jobs
        self._rss_growth = rss_growth
        self._leave = leave
        self._lock = threading.Lock()
        self._ended = 0
        self._warm_rss = 0
        self._is_leaving = False
        self.thread = PeriodicThread("recycler", LOOK_EVERY_S, self.look)

    def after_run(self, _context: JobContext, _ended: Ended) -> None:
        """Counts it."""
        with self._lock:
            self._ended += 1
            if self._ended == WARM_JOBS and self._rss_growth:
                self._warm_rss = resident_bytes()
            is_enough = self._after_jobs and self._ended >= self._after_jobs
        if is_enough:
            self._recycle("jobs", self._ended)

    def look(self) -> None:
        """One look at memory."""
        if not self._warm_rss:
            return
        rss = resident_bytes()
        if rss > self._warm_rss * (1 + self._rss_growth):
            self._recycle("memory", rss)

    def _recycle(self, reason: str, reached: int) -> None:
        with self._lock:
            if self._is_leaving:
                return
            self._is_leaving = True
        log.info("worker recycles itself", reason=reason, reached=reached, warm_rss=self._warm_rss)
        self._leave()
