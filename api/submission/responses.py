"""Answers that are about a job: the job itself, or what it made, for callers who wait for that."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace

from flask import Response, g

from api.http.fleet import eta_s
from api.http.problems import failed_job_response
from api.http.requests import preferred_wait_s
from api.http.routing import Call
from api.schemas.documents import Place, job_document, job_tag, result_document
from api.submission.waiting import await_end
from shared.errors import DreamqueueError, NotFound, StoreUnavailable
from shared.logs import get_logger
from shared.records.job import JobRecord, JobState, NewJob

__all__ = [
    "KEY_HEADER", "PREFER_HEADER", "job_response", "json_response", "place_of", "result_response",
    "submitted_response",
]  # fmt: skip

log = get_logger(__name__)

RESULT_WAIT_S = 10.0  # how long who asks for a result waits, unless they say otherwise
KEY_HEADER = {
    "name": "Idempotency-Key", "in": "header", "required": False,
    "description": "the same key and body again answer with the same job, also after it ended; another body: 409",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[\\x21-\\x7e]+$"},
}  # fmt: skip
PREFER_HEADER = {
    "name": "Prefer", "in": "header", "required": False, "example": "wait=20",
    "description": "`wait=N`: answer when the job has ended, or after N seconds (60 at most)",
    "schema": {"type": "string"},
}  # fmt: skip


def json_response(document: object, status: int = 200) -> Response:
    """For this caller only, and asked anew each time."""
    return Response(
        json.dumps(document, separators=(",", ":")), status, {"Cache-Control": "private, no-cache"},
        mimetype="application/json",
    )  # fmt: skip


def job_response(call: Call, record: JobRecord, *, status: int = 200, known_tag: str | None = None) -> Response:
    """The job, or 304 where it is still as `known_tag` says."""
    place = place_of(call, record)
    tag = job_tag(record, place)
    if known_tag is not None and (tag in known_tag or known_tag.strip() == "*"):
        return Response(status=304, headers={"ETag": tag, "Cache-Control": "private, no-cache"})
    response = json_response(job_document(record, place), status)
    response.headers["ETag"] = tag
    return response


def place_of(call: Call, record: JobRecord) -> Place:
    """Where it stands now."""
    if record.is_final:
        return Place()
    position = None
    if record.state == JobState.QUEUED and (found := call.services.store.position(record)):
        position = found[0]
    pool = call.services.fleet.pool(record.pool)
    return Place(position, eta_s(record, pool, position, int(time.time() * 1000)))


def submitted_response(call: Call, job: NewJob, *, undo: Callable[[], None] = lambda: None) -> Response:
    """Accept the job; 202 with it, or 200 where it had ended by the time that the caller waits. `undo` is called where
    no new job came of it, and takes back what was stored for one."""
    record, is_new = _accepted(call, job, 0.0, undo)
    return _finished(job_response(call, record, status=200 if record.is_final else 202), record, is_new)


def result_response(call: Call, job: NewJob) -> Response:
    """Accept the job and wait: 200 with what it made, a problem where it failed, 202 with the job where it goes on."""
    record, is_new = _accepted(call, job, RESULT_WAIT_S, lambda: None)
    if not record.is_final:
        response = job_response(call, record, status=202)
    elif record.state == JobState.SUCCEEDED:
        response = json_response(result_document(record))
    else:
        response = failed_job_response(record)
    return _finished(response, record, is_new)


def _accepted(call: Call, job: NewJob, wait_s: float, undo: Callable[[], None]) -> tuple[JobRecord, bool]:
    asked = preferred_wait_s()
    job = replace(job, request_id=g.get("request_id", ""))
    try:
        submitted = call.services.store.submit(job)
    except DreamqueueError as error:
        if not isinstance(error, StoreUnavailable) or _is_unknown(call, job):
            undo()
        raise
    if submitted.created:
        log.info(
            "job accepted", request_id=job.request_id, job_id=job.id, kind=job.kind, tenant=job.tenant, pool=job.pool
        )
    else:
        undo()
    record = await_end(call.services, call.tenant, submitted.id, wait_s if asked is None else asked)
    return record, submitted.created


def _is_unknown(call: Call, job: NewJob) -> bool:
    """Whether a submit without an answer did not reach the store; where the store is silent, it may have."""
    try:
        call.services.store.get(job.tenant, job.id)
    except NotFound:
        return True
    except StoreUnavailable:
        log.warning("a job's input stays, though it is not known whether the job was accepted", job_id=job.id)
    return False


def _finished(response: Response, record: JobRecord, is_new: bool) -> Response:
    response.headers["Location"] = f"/v1/jobs/{record.id}"
    if not is_new:
        response.headers["Idempotent-Replayed"] = "true"
    if asked := preferred_wait_s():
        response.headers["Preference-Applied"] = f"wait={asked:.0f}"
    return response
