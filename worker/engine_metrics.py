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
    INDEX_ERRORS,
    INDEX_ROWS,
    INDEX_STAGE_SECONDS,
    MODEL_LOAD_SECONDS,
    SEARCH_STAGE_SECONDS,
    STEP_SECONDS,
)
from shared.settings import Settings
from worker.engines.options import EngineOptions, SearchEvents
from worker.engines.scheduling.device_lock import DeviceLock
from worker.engines.scheduling.stepper import BatchEvents

__all__ = ["engine_options"]


def engine_options(settings: Settings, device_lock: DeviceLock) -> EngineOptions:
    """What the engines of a worker are built with; whatever they tell is counted."""
    return EngineOptions(
        device=settings.device,
        cpu_threads=settings.cpu_threads,
        weights_dir=settings.weights_dir,
        on_step=_count_step,
        device_lock=device_lock,
        on_load=lambda model, seconds: MODEL_LOAD_SECONDS.labels(model).set(seconds),
        events=_batch_events(),
        search_events=_search_events(),
        memory_bytes=settings.device_memory_bytes,
        is_deterministic=settings.deterministic,
    )


def _count_step(kind: str, seconds: float) -> None:
    """A step on the device."""
    STEP_SECONDS.labels(kind).observe(seconds)
    DEVICE_STEPS.labels(kind).inc()


def _batch_events() -> BatchEvents:
    """Everything a batch tells, counted."""
    return BatchEvents(
        on_rows=_rows,
        on_admitted=lambda kind, seconds: ADMISSION_SECONDS.labels(kind).observe(seconds),
        on_evicted=lambda kind: BATCH_EVICTIONS.labels(kind).inc(),
        on_shrunk=lambda kind: BATCH_SHRUNK.labels(kind).inc(),
        on_cache=_cache,
        on_memory=_memory,
    )


def _search_events() -> SearchEvents:
    """Everything that indexing and searching tell, counted."""
    return SearchEvents(
        on_stage=_stage,
        on_rows=_indexed,
        on_item_error=lambda code: INDEX_ERRORS.labels(code).inc(),
    )


def _stage(what: str, stage: str, seconds: float) -> None:
    (SEARCH_STAGE_SECONDS if what == "search" else INDEX_STAGE_SECONDS).labels(stage).observe(seconds)


def _indexed(added: int, updated: int, unchanged: int) -> None:
    for outcome, rows in (("added", added), ("updated", updated), ("unchanged", unchanged)):
        INDEX_ROWS.labels(outcome).inc(rows)


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
