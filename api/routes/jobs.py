"""/v1/jobs: submit, read, list, cancel, pause, resume, retry."""

from __future__ import annotations

import uuid

from flask import Response, request

from api.http.requests import JOB_ID, idempotency_key, json_body, known_id
from api.http.routing import Call, Routes, problems
from api.schemas.documents import Place, job_document, job_tag
from api.schemas.jobs import Job, JobList, JobQuery, ListQuery
from api.submission.admission import job_again, job_from_request
from api.submission.responses import (
    KEY_HEADER,
    PREFER_HEADER,
    job_response,
    json_response,
    place_of,
    submitted_response,
)
from api.submission.waiting import await_end, await_job
from shared.errors import Conflict, InvalidInput
from shared.records.job import JobRecord, JobState

__all__ = ["routes"]

REQUEST_BODY = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobRequest"}}},
}
MATCH_HEADER = {
    "name": "If-None-Match", "in": "header", "required": False,
    "description": "an ETag of this job: 304 while it has not changed; with `wait`, answers at the first change",
    "schema": {"type": "string"},
}  # fmt: skip
ACCEPTED = {202: Job, 200: Job}
REFUSED = problems(400, 404, 409, 413, 415, 429)

routes = Routes("jobs", "Give work, follow it, get what it made")


@routes.add(
    "POST", "/v1/jobs", scope="jobs:write", responses={**ACCEPTED, **REFUSED},
    openapi={"requestBody": REQUEST_BODY}, headers=(KEY_HEADER, PREFER_HEADER,),
)  # fmt: skip
def submit_job(call: Call) -> Response:
    """Give a job.

    Answered with 202 it is on disk and will not be lost. 200 means that it has ended already: an idempotent
    repeat, or `Prefer: wait=N` saw its end.
    """
    job = job_from_request(
        call.services, call.principal, json_body(), job_id=str(uuid.uuid4()), idempotency_key=idempotency_key()
    )
    return submitted_response(call, job)


@routes.add(
    "PUT", "/v1/jobs/<job_id>", scope="jobs:write", responses={**ACCEPTED, **REFUSED},
    openapi={"requestBody": REQUEST_BODY}, headers=(PREFER_HEADER,),
)  # fmt: skip
def put_job(call: Call, job_id: str) -> Response:
    """Give a job under an id of your own, a UUID.

    Sending it again is safe: the same body answers with the same job, another body with 409.
    """
    job_id = job_id.lower()
    if not JOB_ID.fullmatch(job_id):
        raise InvalidInput("a job id is a UUID", field="job_id", limit="xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")
    return submitted_response(call, job_from_request(call.services, call.principal, json_body(), job_id=job_id))


@routes.add(
    "GET", "/v1/jobs/<job_id>", scope="jobs:read", query=JobQuery,
    responses={200: Job, 304: {"description": "It is as your ETag says"}, **problems(404, 410)},
    headers=(MATCH_HEADER,),
)  # fmt: skip
def get_job(call: Call, job_id: str) -> Response:
    """Read a job, or wait for its end with `wait`."""
    known_id(job_id)
    query: JobQuery = call.query
    known_tag = request.headers.get("If-None-Match")

    if known_tag is None:
        return job_response(call, await_end(call.services, call.tenant, job_id, query.wait))

    def is_done(record: JobRecord) -> bool:
        return record.is_final or job_tag(record, place_of(call, record)) not in known_tag

    record = await_job(call.services, call.tenant, job_id, query.wait, is_done)
    return job_response(call, record, known_tag=known_tag)


@routes.add("GET", "/v1/jobs", scope="jobs:read", query=ListQuery, responses={200: JobList})
def list_jobs(call: Call) -> Response:
    """List your jobs, newest first.

    A page may be short of `limit` while there are more: go on until `next_cursor` is null. Jobs given meanwhile
    shift pages, so one may appear twice.
    """
    query: ListQuery = call.query
    page = call.services.store.list_jobs(
        call.tenant, state=query.state, kind=query.kind, cursor=query.cursor, limit=query.limit
    )
    jobs = [job_document(record, Place()) for record in page.jobs]
    return json_response({"jobs": jobs, "next_cursor": page.next_cursor})


@routes.add(
    "POST", "/v1/jobs/<job_id>/cancel", scope="jobs:write", responses={200: Job, 202: Job, **problems(404, 409, 410)}
)
def cancel_job(call: Call, job_id: str) -> Response:
    """Cancel a job.

    200: it was queued and is cancelled. 202: it is running, and stops at its next step; what it has finished is
    kept. 409: it had ended.
    """
    known_id(job_id)
    state = call.services.store.cancel(call.tenant, job_id)
    record = call.services.store.get(call.tenant, job_id)
    return job_response(call, record, status=200 if state == JobState.CANCELLED else 202)


@routes.add(
    "POST", "/v1/jobs/<job_id>/pause", scope="jobs:write", responses={200: Job, 202: Job, **problems(404, 409, 410)}
)
def pause_job(call: Call, job_id: str) -> Response:
    """Let a job stand still until it is resumed.

    200: it is queued and held; it keeps counting as queued, and its deadline runs on. 202: it is running, stops at
    its next step and goes back to be held; kinds that take snapshots go on from there later, others start anew.
    409: it had ended.
    """
    known_id(job_id)
    state = call.services.store.pause(call.tenant, job_id)
    record = call.services.store.get(call.tenant, job_id)
    return job_response(call, record, status=200 if state == JobState.QUEUED else 202)


@routes.add("POST", "/v1/jobs/<job_id>/resume", scope="jobs:write", responses={200: Job, **problems(404, 409, 410)})
def resume_job(call: Call, job_id: str) -> Response:
    """Let a paused job go on, from its old place in the queue.

    Nothing happens to a job that is not paused. 409: it had ended.
    """
    known_id(job_id)
    call.services.store.resume(call.tenant, job_id)
    return job_response(call, call.services.store.get(call.tenant, job_id))


@routes.add(
    "POST", "/v1/jobs/<job_id>/retry", scope="jobs:write", responses={**ACCEPTED, **problems(404, 409, 410, 429)},
    headers=(KEY_HEADER, PREFER_HEADER,),
)  # fmt: skip
def retry_job(call: Call, job_id: str) -> Response:
    """Run an ended job again, as a new job with the same input and seed.

    The ended one stays as it is; the new one names it in `retry_of`. 409 while it has not ended.
    """
    known_id(job_id)
    record = call.services.store.get(call.tenant, job_id)
    if not record.is_final:
        raise Conflict(f"job {job_id} has not ended: it is {record.state}")
    again = job_again(
        call.services, call.principal, record, job_id=str(uuid.uuid4()), idempotency_key=idempotency_key()
    )
    return submitted_response(call, again)
