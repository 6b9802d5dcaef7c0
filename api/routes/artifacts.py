"""/v1/jobs/{id}/artifacts/{name}: what a job made, by redirect to the object store or passed through."""

from __future__ import annotations

import mimetypes
import re

from flask import Response

from api.http.requests import known_id
from api.http.routing import Call, Routes, problems
from api.schemas.jobs import ArtifactQuery
from shared.errors import NotFound
from shared.records.job import JobRecord
from shared.storage import artifact_key

__all__ = ["BYTES", "REDIRECT", "inline_response", "redirect_response", "routes"]

PREVIEW = re.compile(r"^preview[-a-z0-9_.]{0,60}$")
SHOWN = frozenset({"image/png", "image/jpeg", "image/webp", "application/json"})  # the rest is only downloaded
REDIRECT = {
    "description": "Where it lies, signed for a quarter of an hour",
    "headers": {"Location": {"schema": {"type": "string", "format": "uri"}}},
}
BYTES = {"description": "The bytes", "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}

routes = Routes("artifacts", "Pictures and files that jobs made")


@routes.add(
    "GET", "/v1/jobs/<job_id>/artifacts/<name>", scope="jobs:read", query=ArtifactQuery,
    responses={302: REDIRECT, 200: BYTES, **problems(404, 410)},
)  # fmt: skip
def get_artifact(call: Call, job_id: str, name: str) -> Response:
    """Fetch a picture, file or preview of a job: a redirect to a signed URL, or with `inline=1` the bytes."""
    known_id(job_id)
    record = call.services.store.get(call.tenant, job_id)
    key = _key(call, record, name)
    if call.query.inline == "1":
        return inline_response(call, key, name)
    return redirect_response(call, key, name)


def redirect_response(call: Call, key: str, name: str, content_type: str | None = None) -> Response:
    """302 to a freshly signed URL."""
    url = call.services.objects.presign(key, file_name=name, content_type=content_type or _type_of(name))
    return Response(status=302, headers={"Location": url, "Cache-Control": "no-store"})


def inline_response(call: Call, key: str, name: str) -> Response:
    """The bytes, passed through piece by piece; only picture types and JSON are shown in a page of ours."""
    stored, pieces = call.services.objects.stream(key)
    content_type = stored.content_type.partition(";")[0]
    shown = content_type in SHOWN
    headers = {
        "Content-Disposition": f'{"inline" if shown else "attachment"}; filename="{name}"',
        "Content-Length": str(stored.bytes),
        "Cache-Control": "private, max-age=3600",
    }
    return Response(pieces, headers=headers, mimetype=content_type if shown else "application/octet-stream")


def _key(call: Call, record: JobRecord, name: str) -> str:
    for item in (record.artifact(name), record.progress.get("preview")):
        if item and item["name"] == name and str(item["key"]).startswith(f"{record.tenant}/"):
            return str(item["key"])
    if PREVIEW.fullmatch(name):  # an earlier preview of this attempt: not listed, but its place is known
        key = artifact_key(record.tenant, record.id, record.attempt, name)
        call.services.objects.head(key)
        return key
    raise NotFound(f"job {record.id} has no artifact {name[:64]}")


def _type_of(name: str) -> str:
    guessed = mimetypes.guess_type(name)[0] or ""
    return guessed if guessed in SHOWN else "application/octet-stream"
