"""The Python client. Needs httpx only; nothing of the server is imported."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Self

import httpx

from api.client.collections import CollectionCalls
from api.client.errors import ClientError, WaitTimeout
from api.client.job import Event, Job
from api.client.stream import follow
from api.client.transport import LONGEST_WAIT_S, Transport, problem_of

__all__ = ["DreamqueueClient"]

TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


Rows = list[dict[str, Any]]  # named out here, since `list` is a method of the class
Paths = list[Path]


class DreamqueueClient(CollectionCalls):
    """Give jobs and get what they made. Thread-safe; a context manager.

    Calls that are safe to repeat are repeated on 429, 503 and lost connections; submit is, since it always sends
    an idempotency key. Raises the classes of api.client.errors.
    """

    def __init__(self, url: str, api_key: str | None = None, *, timeout_s: float = 30.0) -> None:
        self._transport = Transport(url, api_key, timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    # --- jobs ----------------------------------------------------------------------------------------------------

    def submit(
        self,
        kind: str,
        input: dict[str, Any],
        *,
        idempotency_key: str | None = None,
        wait_s: float = 0.0,
        **fields: Any,
    ) -> Job:
        """Give a job. `fields`: priority, deadline_s, metadata. `wait_s`: answer late, perhaps with its end."""
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4()), **_prefer(wait_s)}
        body = {"kind": kind, "input": input, **fields}
        return Job(self._transport.json("POST", "/v1/jobs", wait_s=wait_s, headers=headers, json=body))

    def put(self, job_id: str | uuid.UUID, kind: str, input: dict[str, Any], **fields: Any) -> Job:
        """Give a job under an id of yours; again with the same content, it is the same job."""
        body = {"kind": kind, "input": input, **fields}
        return Job(self._transport.json("PUT", f"/v1/jobs/{job_id}", json=body))

    def get(self, job_id: str, *, wait_s: float = 0.0) -> Job:
        """The job, at once or after it has ended within `wait_s` (60 at most)."""
        wait_s = min(wait_s, LONGEST_WAIT_S)
        params = {"wait": wait_s} if wait_s else {}
        return Job(self._transport.json("GET", f"/v1/jobs/{job_id}", wait_s=wait_s, params=params))

    def wait(self, job_id: str, *, timeout_s: float | None = None) -> Job:
        """The job once it has ended, however it ended. Raises WaitTimeout."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = LONGEST_WAIT_S if end is None else end - time.monotonic()
            job = self.get(job_id, wait_s=max(0.0, min(left_s, LONGEST_WAIT_S)))
            if job.is_final:
                return job
            if end is not None and time.monotonic() >= end:
                raise WaitTimeout(f"job {job_id} is {job.state} after {timeout_s:g} s")

    def watch(self, job_id: str, *, after: str | None = None) -> Iterator[Event]:
        """The job's events from its first, or after an event id, until `finished`; survives lost connections."""
        return follow(self._transport, job_id, after)

    def list(self, *, state: str | None = None, kind: str | None = None, limit: int | None = None) -> Iterator[Job]:
        """Your jobs, newest first, page by page as you go on; `limit` in all."""
        filters = {name: value for name, value in (("state", state), ("kind", kind)) if value}
        return islice(self._listed({**filters, "limit": min(limit or 100, 200)}), limit)

    def _listed(self, params: dict[str, Any]) -> Iterator[Job]:
        seen: set[str] = set()
        cursor: dict[str, str] | None = {}
        while cursor is not None:
            page = self._transport.json("GET", "/v1/jobs", params={**params, **cursor})
            for data in page["jobs"]:
                if data["id"] not in seen:  # jobs given meanwhile shift pages
                    seen.add(data["id"])
                    yield Job(data)
            cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] is not None else None

    def cancel(self, job_id: str) -> Job:
        """Ask for its end. Raises Conflicting when it had ended."""
        return Job(self._transport.json("POST", f"/v1/jobs/{job_id}/cancel"))

    def pause(self, job_id: str) -> Job:
        """Let it stand still; a running one stops at its next step. Raises Conflicting when it had ended."""
        return Job(self._transport.json("POST", f"/v1/jobs/{job_id}/pause"))

    def resume(self, job_id: str) -> Job:
        """Let a paused one go on. Raises Conflicting when it had ended."""
        return Job(self._transport.json("POST", f"/v1/jobs/{job_id}/resume"))

    def retry(self, job_id: str, *, idempotency_key: str | None = None) -> Job:
        """A new job with an ended one's input and seed."""
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return Job(self._transport.json("POST", f"/v1/jobs/{job_id}/retry", headers=headers))

    # --- pictures ------------------------------------------------------------------------------------------------

    def upload_image(self, image: Path | bytes) -> str:
        """Upload a PNG, JPEG or WebP; the returned id names it in job inputs."""
        body = image if isinstance(image, bytes) else image.read_bytes()
        kind = "application/octet-stream" if isinstance(image, bytes) else TYPES.get(image.suffix.lower())
        headers = {"Content-Type": kind or "application/octet-stream"}
        return str(self._transport.json("POST", "/v1/images", content=body, headers=headers)["id"])

    def download(self, url: str, *, sha256: str | None = None) -> bytes:
        """The bytes behind a picture's or file's `url`: from the object store, or through the API where that is
        out of reach. Raises ClientError when they are not those of `sha256`."""
        body = self._direct(url)
        if body is None:
            body = self._transport.answer("GET", url, params={"inline": "1"}).content
        if sha256 and hashlib.sha256(body).hexdigest() != sha256:
            raise ClientError(f"{url}: the bytes are not those that were stored")
        return body

    def download_all(self, job: Job, folder: Path) -> Paths:
        """Every picture and file of a job into `folder`; pictures get their rank in front of their name."""
        folder.mkdir(parents=True, exist_ok=True)
        width = len(str(len(job.images)))
        named = [(f"{rank:0{width}d}-{item['name']}", item) for rank, item in enumerate(job.images, 1)]
        named += [(str(item["name"]), item) for item in job.files]
        paths = []
        for name, item in named:
            path = folder / Path(name).name
            path.write_bytes(self.download(item["url"], sha256=item.get("sha256")))
            paths.append(path)
        return paths

    def _direct(self, url: str) -> bytes | None:
        redirect = self._transport.answer("GET", url)
        if redirect.status_code != 302:
            return redirect.content
        try:
            answer = httpx.get(redirect.headers["Location"], timeout=self._transport.timeout(0))
        except httpx.TransportError:
            return None
        if answer.status_code >= 500:
            return None
        if answer.status_code >= 400:
            raise problem_of(answer)
        return answer.content

    # --- fleet ---------------------------------------------------------------------------------------------------

    def models(self) -> Rows:
        """Models that live workers hold."""
        return _rows(self._transport.json("GET", "/v1/models"), "models")

    def pools(self) -> Rows:
        """Pools: ready and running jobs, ready workers."""
        return _rows(self._transport.json("GET", "/v1/pools"), "pools")

    def workers(self) -> Rows:
        """Live workers."""
        return _rows(self._transport.json("GET", "/v1/workers"), "workers")


def _rows(answer: dict[str, Any], name: str) -> Rows:
    rows: Rows = answer[name]
    return rows


def _prefer(wait_s: float) -> dict[str, str]:
    return {"Prefer": f"wait={min(wait_s, LONGEST_WAIT_S):.0f}"} if wait_s else {}
