"""Following a job: server-sent events, taken up again where they were cut; polling where streams do not get through."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from api.client.errors import ApiError
from api.client.job import Event, Job
from api.client.transport import Transport, problem_of

__all__ = ["follow"]

SILENCE_S = 45.0  # a stream without even a comment for this long is cut; comments come every 15 s
STREAM_TRIES = 3  # streams in a row that brought nothing before polling takes over
POLL_WAIT_S = 20.0


def follow(transport: Transport, job_id: str, after: str | None = None) -> Iterator[Event]:
    """Events until `finished`, which comes last and once. Raises ApiError for a job that is not there."""
    barren = 0
    while barren < STREAM_TRIES:
        before = after
        try:
            for event in _stream(transport, job_id, after):
                after = event.id or after
                yield event
                if event.type == "finished":
                    return
        except httpx.TransportError:
            pass
        except ApiError as error:
            if error.status < 500 and error.status != 429:
                raise
        barren = 0 if after != before else barren + 1
        transport.pause(barren)
    yield from _poll(transport, job_id)


def _stream(transport: Transport, job_id: str, after: str | None) -> Iterator[Event]:
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})}
    timeout = httpx.Timeout(SILENCE_S, connect=5.0)
    with transport.http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers, timeout=timeout) as answer:
        if answer.status_code >= 400:
            answer.read()
            raise problem_of(answer)
        if answer.status_code == 204:  # all of it was seen before
            yield _finished(Job(transport.json("GET", f"/v1/jobs/{job_id}")))
            return
        yield from _parsed(answer.iter_lines())


def _parsed(lines: Iterator[str]) -> Iterator[Event]:
    """The event stream format of the WHATWG HTML standard, section 9.2, as far as this server uses it."""
    fields: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif not line:
            if "data" in fields:
                yield Event(fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"]))
            fields = {}


def _poll(transport: Transport, job_id: str) -> Iterator[Event]:
    tag = ""
    while True:
        wait_s = POLL_WAIT_S if tag else 0.0  # the first answer at once, the next ones at the next change
        answer = transport.answer(
            "GET",
            f"/v1/jobs/{job_id}",
            params={"wait": wait_s},
            wait_s=wait_s,
            headers={"If-None-Match": tag} if tag else {},
        )
        if answer.status_code == 304:
            continue
        tag = answer.headers.get("ETag", "")
        job = Job(answer.json())
        if job.is_final:
            yield _finished(job)
            return
        data: dict[str, Any] = {"id": job.id, "state": job.state, **job.progress}
        yield Event("", "progress" if job.state == "running" else "queued", data)


def _finished(job: Job) -> Event:
    return Event("", "finished", {"id": job.id, "state": job.state, **({"error": job.error} if job.error else {})})
