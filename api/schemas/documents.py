"""A job record as callers see it: RFC 3339 times, URLs instead of storage keys. Plain dicts: this is the hot path."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

from shared.records.job import Attempt, JobRecord

__all__ = [
    "Place", "artifact_url", "image_url", "job_document", "job_tag", "progress_document", "result_document", "rfc3339",
]  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a job stands in the queue, as far as it was asked for."""

    position: int | None = None
    eta_s: float | None = None


def rfc3339(time_ms: int | None) -> str | None:
    """Milliseconds since the epoch as `2026-11-23T09:30:00.123Z`."""
    if time_ms is None:
        return None
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
    except (OverflowError, ValueError, OSError):  # a damaged record's
        return None


def artifact_url(job_id: str, name: str) -> str:
    """Stable for the job's life; each fetch redirects to a freshly signed URL."""
    return f"/v1/jobs/{job_id}/artifacts/{name}"


def image_url(image_id: str) -> str:
    """Of an uploaded picture, or one of a collection."""
    return f"/v1/images/{image_id}"


def job_document(record: JobRecord, place: Place) -> dict[str, Any]:
    """The job's JSON form (schemas.Job)."""
    return {
        "id": record.id,
        "kind": record.kind,
        "input": {name: value for name, value in record.spec.items() if name != "kind"},
        "state": record.state.value,
        "priority": record.priority,
        "pool": record.pool,
        "attempt": record.attempt,
        "attempts": [_attempt(attempt) for attempt in record.attempts],
        "position": place.position,
        "eta_s": place.eta_s,
        "created_at": rfc3339(record.created_at_ms),
        "started_at": rfc3339(record.started_at_ms),
        "finished_at": rfc3339(record.finished_at_ms),
        "expires_at": rfc3339(record.expires_at_ms),
        "deadline_at": rfc3339(record.deadline_at_ms),
        "due_at": rfc3339(record.due_at_ms),
        "cancel_requested": record.cancel_requested,
        "paused": record.paused,
        "progress": progress_document(record.id, record.progress),
        "result": _result(record),
        "error": record.error,
        "timings": _timings(record),
        "worker": record.worker,
        "metadata": record.metadata,
        "retry_of": record.retry_of,
        "urls": _urls(record.id),
    }


def result_document(record: JobRecord) -> dict[str, Any]:
    """What a succeeded job made, for a caller who asked for that rather than for a job."""
    return {
        "job_id": record.id,
        **(_result(record) or {}),
        "timings": _timings(record),
        "urls": _urls(record.id),
    }


def _urls(job_id: str) -> dict[str, str]:
    url = f"/v1/jobs/{job_id}"
    return {"self": url, **{call: f"{url}/{call}" for call in ("cancel", "pause", "resume", "retry", "events")}}


def job_tag(record: JobRecord, place: Place) -> str:
    """A weak entity tag of all that can change about a job, the ETA excepted: it changes while nothing happens."""
    parts = (record.state.value, record.attempt, record.failures, record.finished_at_ms, record.due_at_ms,
             record.cancel_requested, record.paused, place.position, record.progress)  # fmt: skip
    return f'W/"{blake2b(json.dumps(parts).encode(), digest_size=9).hexdigest()}"'


def progress_document(job_id: str, progress: dict[str, Any]) -> dict[str, Any]:
    """What callers see of a worker's progress: never where in the object store a preview lies."""
    preview = _preview(progress)
    return {
        "fraction": progress.get("fraction"),
        "stage": progress.get("stage"),
        "step": progress.get("step"),
        "total": progress.get("total"),
        "preview_url": artifact_url(job_id, preview["name"]) if preview.get("name") else None,
    }


def _preview(progress: dict[str, Any]) -> dict[str, Any]:
    found = progress.get("preview")
    return found if isinstance(found, dict) else {}


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "worker": attempt.worker,
        "started_at": rfc3339(attempt.started_at_ms),
        "ended_at": rfc3339(attempt.ended_at_ms),
        "outcome": attempt.outcome,
        "alone": attempt.alone,
        "error": attempt.error,
    }


def _result(record: JobRecord) -> dict[str, Any] | None:
    if record.result is None:
        return None
    shown = {
        **record.result,
        "images": _with_urls(record.id, record.made("images")),
        "files": _with_urls(record.id, record.made("files")),
    }
    if record.kind == "search" and "hits" in record.result:
        shown["hits"] = [_hit(hit) for hit in record.result["hits"] if isinstance(hit, dict) and "id" in hit]
    return shown


def _hit(hit: dict[str, Any]) -> dict[str, Any]:
    """A picture's id is its place; when it came in is told as all times are."""
    return {
        "id": hit["id"],
        "url": image_url(hit["id"]),
        "cosine": hit.get("cosine"),
        "score": hit.get("score"),
        "metadata": hit.get("metadata") or {},
        "added_at": rfc3339(hit.get("added_at_ms")),
    }


def _with_urls(job_id: str, items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "name": item["name"],
            "url": artifact_url(job_id, item["name"]),
            **{field: value for field, value in item.items() if field not in ("name", "key")},
        }
        for item in items
    ]


def _timings(record: JobRecord) -> dict[str, float]:
    if record.started_at_ms is None or "queue_s" in record.timings:
        return record.timings
    return {"queue_s": round((record.started_at_ms - record.created_at_ms) / 1000, 3), **record.timings}
