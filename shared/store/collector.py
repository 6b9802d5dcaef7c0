"""Metrics that the store knows, exact over all processes, read at each scrape."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.errors import DreamqueueError
from shared.store.jobs import JobStore

__all__ = ["StoreCollector"]

_COUNTS = {
    "accepted": ("dreamqueue_jobs_accepted", "Jobs answered with 202"),
    "succeeded": ("dreamqueue_jobs_succeeded", "Jobs that ended succeeded"),
    "failed": ("dreamqueue_jobs_failed", "Jobs that ended failed"),
    "cancelled": ("dreamqueue_jobs_cancelled", "Jobs that ended cancelled"),
    "expired": ("dreamqueue_jobs_expired", "Jobs whose deadline passed in the queue"),
    "retried": ("dreamqueue_jobs_retried", "Attempts that ended in a retryable error"),
    "preempted": ("dreamqueue_jobs_preempted", "Low jobs called away for a high one"),
    "fenced": ("dreamqueue_late_writes_fenced", "Writes of attempts that no longer owned their job"),
    "unreadable": ("dreamqueue_records_unreadable", "Jobs ended because their record could not be read"),
    "leases_lost": ("dreamqueue_leases_lost", "Leases that ran out under a running job"),
}


class StoreCollector(Collector):
    """What the store knows, read at each scrape. A store that does not answer shows as `dreamqueue_store_up 0`."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    def describe(self) -> Iterable[Metric]:
        """Nothing to say before the first scrape: keeps registration free of I/O."""
        return []

    def collect(self) -> Iterable[Metric]:
        """One family per count, and the gauges of every pool."""
        up = GaugeMetricFamily("dreamqueue_store_up", "1 when the job store answered this scrape")
        try:
            families = [*self._counters(), *self._pools()]
            up.add_metric([], 1)
        except DreamqueueError:
            families = []
            up.add_metric([], 0)
        return [up, *families]

    def _counters(self) -> list[Metric]:
        counts = self._store.fleet.counts()
        families: list[Metric] = []
        for what, (name, text) in _COUNTS.items():
            family = CounterMetricFamily(name, text, labels=["kind"])
            for (kind, counted), value in sorted(counts.items()):
                if counted == what:
                    family.add_metric([kind], value)
            families.append(family)
        return families

    def _pools(self) -> list[Metric]:
        ready = GaugeMetricFamily("dreamqueue_jobs_ready", "Jobs a worker could claim now", labels=["pool"])
        suspect = GaugeMetricFamily("dreamqueue_jobs_suspect", "Ready jobs that must run alone", labels=["pool"])
        running = GaugeMetricFamily("dreamqueue_jobs_running", "Jobs under a lease", labels=["pool"])
        bells = GaugeMetricFamily("dreamqueue_doorbells", "Doorbells waiting in the broker", labels=["pool"])
        workers = GaugeMetricFamily("dreamqueue_workers", "Live workers", labels=["pool", "state"])
        slots = GaugeMetricFamily("dreamqueue_slots", "Job slots of live workers", labels=["pool"])
        for pool in self._store.fleet.pools():
            ready.add_metric([pool.name], pool.ready_jobs)
            suspect.add_metric([pool.name], pool.suspect_jobs)
            running.add_metric([pool.name], pool.running_jobs)
            bells.add_metric([pool.name], pool.doorbells)
            slots.add_metric([pool.name], sum(worker.slots for worker in pool.workers))
            for state in ("ready", "draining"):
                workers.add_metric([pool.name, state], sum(worker.state == state for worker in pool.workers))
        return [ready, suspect, running, bells, workers, slots]
