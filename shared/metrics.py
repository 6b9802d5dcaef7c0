"""Every metric: name, labels, buckets, help. Labels come from closed sets only: never a tenant, prompt or job id.

Counters that must be exact over all processes (accepted, finished, fenced, ...) live in Redis, moved by the
transition scripts; StoreCollector shows them. The rest is counted by the process that did the work.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.errors import DreamqueueError
from shared.store import JobStore

__all__ = [
    "ADMISSION_SECONDS",
    "BATCH_EVICTIONS",
    "BATCH_ROWS",
    "BATCH_SHRUNK",
    "BATCH_SLOTS",
    "BATCH_SLOTS_TAKEN",
    "BEAT_SECONDS",
    "DEVICE_STEPS",
    "ENGINE_CACHE",
    "ENGINE_MEMORY_BYTES",
    "HTTP_IN_FLIGHT",
    "HTTP_REQUESTS",
    "HTTP_SECONDS",
    "INDEX_COMPACTIONS",
    "INDEX_ERRORS",
    "INDEX_ROWS",
    "INDEX_STAGE_SECONDS",
    "INVARIANT_VIOLATIONS",
    "JOBS_RUNNING",
    "JOB_SECONDS",
    "MODEL_LOAD_SECONDS",
    "OUTPUTS_REUSED",
    "PICTURES",
    "QUEUE_SECONDS",
    "REAPED",
    "RUNS_RESUMED",
    "SEARCH_CACHE_BYTES",
    "SEARCH_CACHE_ROWS",
    "SEARCH_CACHE_TABLES",
    "SEARCH_STAGE_SECONDS",
    "SEARCH_STALENESS",
    "SNAPSHOTS",
    "SPOOL_FULL",
    "STAGE_SECONDS",
    "STEP_SECONDS",
    "UPLOADED_BYTES",
    "UPLOAD_RETRIES",
    "StoreCollector",
]

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LONG = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)

# --- API ---------------------------------------------------------------------------------------------------------
HTTP_REQUESTS = Counter(
    "dreamqueue_http_requests_total", "Requests answered", ["method", "route", "status"]
)  # route is the template, never the path
HTTP_SECONDS = Histogram("dreamqueue_http_request_seconds", "Time to answer, waits included", ["route"], buckets=_FAST)
HTTP_IN_FLIGHT = Gauge(
    "dreamqueue_http_requests_in_flight", "Requests being answered, waits and streams included",
    multiprocess_mode="livesum",
)  # fmt: skip

# --- Worker ------------------------------------------------------------------------------------------------------
JOBS_RUNNING = Gauge("dreamqueue_worker_jobs_running", "Jobs in flight in this worker", ["kind"])
QUEUE_SECONDS = Histogram("dreamqueue_job_queue_seconds", "Ready until claimed", ["kind"], buckets=_LONG)
JOB_SECONDS = Histogram("dreamqueue_job_run_seconds", "Claimed until settled", ["kind", "outcome"], buckets=_LONG)
STAGE_SECONDS = Histogram(
    "dreamqueue_job_stage_seconds", "Time in one stage of a run", ["kind", "stage"], buckets=_LONG
)
STEP_SECONDS = Histogram(
    "dreamqueue_engine_step_seconds", "One step of an engine on its device", ["kind"], buckets=_FAST
)
DEVICE_STEPS = Counter("dreamqueue_engine_steps_total", "Steps an engine made on its device", ["kind"])
BATCH_ROWS = Histogram(
    "dreamqueue_engine_batch_rows", "Rows that shared a step", ["kind"], buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
BATCH_SLOTS = Gauge("dreamqueue_engine_slots", "Rows that a batch can hold", ["kind"])
BATCH_SLOTS_TAKEN = Gauge("dreamqueue_engine_slots_taken", "Rows that were in the last step", ["kind"])
ADMISSION_SECONDS = Histogram(
    "dreamqueue_engine_admission_seconds", "From the engine's door to the first slot, by row", ["kind"], buckets=_FAST
)
BATCH_EVICTIONS = Counter("dreamqueue_engine_evictions_total", "Rows that made room for another job's", ["kind"])
BATCH_SHRUNK = Counter("dreamqueue_engine_shrunk_total", "Times a batch went on with less on a full device", ["kind"])
ENGINE_CACHE = Counter("dreamqueue_engine_cache_total", "Looked up, found or made", ["cache", "outcome"])
ENGINE_MEMORY_BYTES = Gauge(
    "dreamqueue_engine_memory_bytes",
    "What the rows of a batch take: predicted; what is in use: the peak",
    ["kind", "what"],
)
PICTURES = Counter("dreamqueue_pictures_total", "Pictures stored", ["kind"])
UPLOADED_BYTES = Counter("dreamqueue_uploaded_bytes_total", "Bytes put into the object store", ["what"])
UPLOAD_RETRIES = Counter("dreamqueue_upload_retries_total", "Uploads that had to be tried again")
BEAT_SECONDS = Histogram("dreamqueue_beat_interval_seconds", "Between two heartbeats of a worker", buckets=_FAST)
SPOOL_FULL = Gauge("dreamqueue_spool_full", "1 while outputs wait in memory and this worker claims nothing")
OUTPUTS_REUSED = Counter(
    "dreamqueue_outputs_reused_total", "Runs that needed no device: their output was there", ["kind"]
)
SNAPSHOTS = Counter("dreamqueue_snapshots_total", "Snapshots of unfinished runs stored", ["kind"])
RUNS_RESUMED = Counter("dreamqueue_runs_resumed_total", "Runs that went on from a snapshot", ["kind"])
REAPED = Counter("dreamqueue_reaped_total", "Jobs this worker's reaper moved", ["what"])
INVARIANT_VIOLATIONS = Counter(
    "dreamqueue_invariant_violations_total",
    "What the auditor found that must not be; 0 in a sound store",
    ["invariant"],
)
MODEL_LOAD_SECONDS = Gauge("dreamqueue_model_load_seconds", "Time to load a model at start", ["model"])

# --- Search ------------------------------------------------------------------------------------------------------
SEARCH_STAGE_SECONDS = Histogram(
    "dreamqueue_search_stage_seconds", "One stage of a search: text, image, refresh, rank (with the filter)", ["stage"],
    buckets=_FAST,
)  # fmt: skip
INDEX_STAGE_SECONDS = Histogram(
    "dreamqueue_index_stage_seconds", "One stage of indexing a chunk of pictures: fetch, keep, embed, write", ["stage"],
    buckets=_FAST,
)  # fmt: skip
INDEX_ROWS = Counter("dreamqueue_index_rows_total", "Pictures given to collections", ["outcome"])
INDEX_ERRORS = Counter("dreamqueue_index_errors_total", "Pictures that could not be indexed", ["code"])
INDEX_COMPACTIONS = Counter("dreamqueue_index_compactions_total", "Tables compacted by this worker")
SEARCH_CACHE_ROWS = Gauge("dreamqueue_search_cache_rows", "Rows of collections in this worker's memory")
SEARCH_CACHE_BYTES = Gauge("dreamqueue_search_cache_bytes", "What they take")
SEARCH_CACHE_TABLES = Gauge("dreamqueue_search_cache_tables", "Of so many collections")
SEARCH_STALENESS = Gauge(
    "dreamqueue_search_staleness_seconds", "How long the last change of one of them has not been taken in; 0: all have"
)

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
        counts = self._store.counts()
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
        for pool in self._store.pools():
            ready.add_metric([pool.name], pool.ready_jobs)
            suspect.add_metric([pool.name], pool.suspect_jobs)
            running.add_metric([pool.name], pool.running_jobs)
            bells.add_metric([pool.name], pool.doorbells)
            slots.add_metric([pool.name], sum(worker.slots for worker in pool.workers))
            for state in ("ready", "draining"):
                workers.add_metric([pool.name, state], sum(worker.state == state for worker in pool.workers))
        return [ready, suspect, running, bells, workers, slots]
