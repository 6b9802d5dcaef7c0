"""Every metric: name, labels, buckets, help. Labels come from closed sets only: never a tenant, prompt or job id.

Counters that must be exact over all processes (accepted, finished, fenced, ...) live in Redis, moved by the
transition scripts; shared/store/collector.py shows them. The rest is counted by the process that did the work.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

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
