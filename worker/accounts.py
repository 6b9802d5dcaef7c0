"""What engines tell of their steps and batches, as metrics. Engines themselves know of none."""

from __future__ import annotations

from shared.metrics import (
    ADMISSION_SECONDS,
    BATCH_EVICTIONS,
    BATCH_ROWS,
    BATCH_SHRUNK,
    BATCH_SLOTS,
    BATCH_SLOTS_TAKEN,
    DEVICE_STEPS,
    ENGINE_CACHE,
    ENGINE_MEMORY_BYTES,
    STEP_SECONDS,
)
from worker.engines.batch import BatchEvents

__all__ = ["batch_events", "count_step"]


def count_step(kind: str, seconds: float) -> None:
    """A step on the device."""
    STEP_SECONDS.labels(kind).observe(seconds)
    DEVICE_STEPS.labels(kind).inc()


def batch_events() -> BatchEvents:
    """Everything a batch tells, counted."""
    return BatchEvents(
        on_rows=_rows,
        on_admitted=lambda kind, seconds: ADMISSION_SECONDS.labels(kind).observe(seconds),
        on_evicted=lambda kind: BATCH_EVICTIONS.labels(kind).inc(),
        on_shrunk=lambda kind: BATCH_SHRUNK.labels(kind).inc(),
        on_cache=_cache,
        on_memory=_memory,
    )


def _rows(kind: str, rows: int, slots: int) -> None:
    BATCH_ROWS.labels(kind).observe(rows)
    BATCH_SLOTS_TAKEN.labels(kind).set(rows)
    BATCH_SLOTS.labels(kind).set(slots)


def _cache(cache: str, hits: int, misses: int) -> None:
    ENGINE_CACHE.labels(cache, "found").inc(hits)
    ENGINE_CACHE.labels(cache, "made").inc(misses)


def _memory(kind: str, predicted: int, used: int) -> None:
    ENGINE_MEMORY_BYTES.labels(kind, "predicted").set(predicted)
    ENGINE_MEMORY_BYTES.labels(kind, "peak").set(used)
