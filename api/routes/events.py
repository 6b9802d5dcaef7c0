"""/v1/jobs/{id}/events: what happens to a job, as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from flask import Response

from api.http.requests import known_id, last_event_id
from api.http.routing import Call, Routes, problems
from api.http.services import BLOCK_S, Services
from api.schemas.documents import artifact_url, rfc3339
from shared.errors import DreamqueueError
from shared.records.job import JobRecord
from shared.store.events import Event

__all__ = ["routes"]

RETRY_MS = 1_000  # what we ask a cut-off reader to wait before it comes back
HIDDEN = frozenset({"preview", "key"})
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
LAST_ID_HEADER = {
    "name": "Last-Event-ID", "in": "header", "required": False,
    "description": "go on after this event; the stream keeps the latest 1,000 of a job, an hour beyond its end",
    "schema": {"type": "string", "pattern": "^[0-9]{1,15}-[0-9]{1,10}$"},
}  # fmt: skip
EXAMPLE = 'id: 1763890000000-0\nevent: progress\ndata: {"state": "running", "fraction": 0.5, "stage": "sample"}\n\n'
STREAM = {
    "description": "The stream",
    "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE}},
}

routes = Routes("events", "Follow one job")


@routes.add(
    "GET", "/v1/jobs/<job_id>/events", scope="jobs:read",
    responses={
        200: STREAM,
        204: {"description": "The job has ended and you have seen all of it: do not come back"},
        **problems(404, 410),
    },
    headers=(LAST_ID_HEADER,),
)  # fmt: skip
def stream_events(call: Call, job_id: str) -> Response:
    """Follow a job: queued, started, progress, preview, log, cancelling, paused, resumed, finished.

    All events from the first, or from Last-Event-ID on; comments keep the connection alive; ends after `finished`.
    """
    known_id(job_id)
    after = last_event_id()
    record = call.services.store.get(call.tenant, job_id)
    first = call.services.events.read(call.tenant, job_id, after=after or "0-0")
    if record.is_final and not first and after:
        return Response(status=204)
    return Response(
        _frames(call.services, record, first, after or "0-0"), mimetype="text/event-stream", headers=HEADERS
    )


def _frames(services: Services, record: JobRecord, events: list[Event], after: str) -> Iterator[str]:
    """Frames until `finished`. When a server fails, the stream just ends, and the reader comes back for the rest."""
    yield f"retry: {RETRY_MS}\n\n"
    if record.is_final and not events:
        yield _frame(record.id, _end_of(record))
        return
    try:
        while True:
            for event in events:
                after = event.id
                yield _frame(record.id, event)
                if event.type == "finished":
                    return
            events = services.events.read(record.tenant, record.id, after=after, block_ms=int(BLOCK_S * 1000))
            if not events:
                yield ": keep-alive\n\n"
                record = services.store.get(record.tenant, record.id)
                if record.is_final:
                    events = services.events.read(record.tenant, record.id, after=after) or [_end_of(record)]
    except DreamqueueError:
        return


def _frame(job_id: str, event: Event) -> str:
    data = json.dumps({"id": job_id, **_public(job_id, event.data)}, separators=(",", ":"))
    return f"id: {event.id}\nevent: {event.type}\ndata: {data}\n\n"


def _public(job_id: str, data: dict[str, Any]) -> dict[str, Any]:
    """The event without storage keys, with URLs and times as in a job."""
    shown = {name: value for name, value in data.items() if name not in HIDDEN}
    preview = data.get("preview") or ({"name": data["name"]} if "key" in data and "name" in data else {})
    if isinstance(preview, dict) and preview.get("name"):
        shown["preview_url"] = artifact_url(job_id, str(preview["name"]))
    if isinstance(shown.get("due_at"), int):
        shown["due_at"] = rfc3339(shown["due_at"])
    return shown


def _end_of(record: JobRecord) -> Event:
    """The `finished` event of a job whose stream is gone."""
    error = {"error": record.error} if record.error else {}
    return Event(f"{record.finished_at_ms}-0", "finished", {"state": record.state.value, **error})
