"""/v1/collections: make, list, describe, delete; and the jobs that work on a whole collection."""

from __future__ import annotations

import re
import uuid
from typing import Any

from flask import Response
from pydantic import ValidationError

from api.http.problems import rejected_by_schema
from api.http.requests import idempotency_key, json_body
from api.http.routing import Call, Routes, problems
from api.schemas.documents import rfc3339
from api.schemas.jobs import Job
from api.schemas.search import Collection as CollectionView
from api.schemas.search import CollectionInput, CollectionList
from api.submission.admission import SubmitOptions, job_from_input
from api.submission.responses import KEY_HEADER, PREFER_HEADER, json_response, submitted_response
from shared.errors import InvalidInput, NotFound
from shared.records.collection import Collection

__all__ = ["job_of_collection", "known_collection", "part_body", "routes"]

NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,62}$")
STARTED = {202: Job, 200: Job, **problems(400, 404, 409, 413, 415, 429)}
HEADERS = (KEY_HEADER, PREFER_HEADER)

routes = Routes("collections", "Pictures that can be searched")


def part_body(part: str) -> dict[str, Any]:
    """The OpenAPI of a body that says all of a spec but its collection."""
    schema = {"$ref": f"#/components/schemas/{part}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def known_collection(call: Call, name: str) -> Collection:
    """The caller's collection. Raises NotFound, for another tenant's, too."""
    if not NAME.fullmatch(name):
        raise NotFound(f"no collection {name[:64]}")
    return call.services.collections.get(call.tenant, name)


def job_of_collection(call: Call, name: str, kind: str, input_: Any) -> Response:
    """Start a job on the collection that the path names; `input_` is the rest of the spec."""
    if not NAME.fullmatch(name):
        raise NotFound(f"no collection {name[:64]}")
    if not isinstance(input_, dict):
        raise InvalidInput("should be a JSON object")
    if "collection" in input_:
        raise InvalidInput("the path names the collection", field="collection")
    options = SubmitOptions(str(uuid.uuid4()), idempotency_key())
    job = job_from_input(call.services, call.principal, kind, {**input_, "collection": name}, options)
    return submitted_response(call, job)


@routes.add(
    "POST", "/v1/collections", scope="jobs:write",
    responses={201: CollectionView, 200: CollectionView, **problems(400, 409, 413, 415)},
    openapi=part_body("CollectionInput"),
)  # fmt: skip
def create_collection(call: Call) -> Response:
    """Make a collection, whose pictures one CLIP model sees.

    200: it was there, with this model. 409: it was there, with another one; re-embed it instead.
    """
    try:
        asked = CollectionInput.model_validate(json_body())
    except ValidationError as error:
        raise rejected_by_schema(error) from None
    found, is_new = call.services.collections.create(
        call.tenant, asked.name, asked.model, fingerprint=_fingerprint(call, asked.model), description=asked.description
    )
    response = json_response(_document(found, _clips(call)), 201 if is_new else 200)
    response.headers["Location"] = f"/v1/collections/{found.name}"
    return response


@routes.add("GET", "/v1/collections", scope="jobs:read", responses={200: CollectionList})
def list_collections(call: Call) -> Response:
    """List your collections, oldest first."""
    clips = _clips(call)
    found = call.services.collections.all(call.tenant)
    return json_response({"collections": [_document(one, clips) for one in found]})


@routes.add("GET", "/v1/collections/<name>", scope="jobs:read", responses={200: CollectionView, **problems(404)})
def get_collection(call: Call, name: str) -> Response:
    """Describe a collection: its model, its size, its metadata fields, and whether its vectors are stale."""
    return json_response(_document(known_collection(call, name), _clips(call)))


@routes.add(
    "DELETE", "/v1/collections/<name>", scope="jobs:write",
    responses={204: {"description": "It is gone"}, **problems(404)},
)  # fmt: skip
def delete_collection(call: Call, name: str) -> Response:
    """Delete a collection at once. Pictures themselves stay, as uploads do."""
    known_collection(call, name)
    call.services.collections.delete(call.tenant, name)
    return Response(status=204)


@routes.add(
    "POST", "/v1/collections/<name>/reembed", scope="jobs:write", responses=STARTED, openapi=part_body("ReembedInput"),
    headers=HEADERS,
)  # fmt: skip
def reembed_collection(call: Call, name: str) -> Response:
    """Let another CLIP see the collection anew.

    The old vectors answer until all new ones are there.
    """
    return job_of_collection(call, name, "reembed", json_body())


@routes.add(
    "POST", "/v1/collections/<name>/duplicates", scope="jobs:write", responses=STARTED,
    openapi=part_body("DuplicatesInput"), headers=HEADERS,
)  # fmt: skip
def find_duplicates(call: Call, name: str) -> Response:
    """Find pictures of the collection that are nearly the same; JSON and CSV files of the job list them."""
    return job_of_collection(call, name, "duplicates", json_body())


@routes.add(
    "POST", "/v1/collections/<name>/groups", scope="jobs:write", responses=STARTED, openapi=part_body("GroupInput"),
    headers=HEADERS,
)  # fmt: skip
def group_collection(call: Call, name: str) -> Response:
    """Put the collection into groups of pictures that are alike; JSON and CSV files of the job list them."""
    return job_of_collection(call, name, "group", json_body())


def _fingerprint(call: Call, model: str) -> str:
    """Of the model's weights, as live workers hold it; empty where no worker is alive. Raises InvalidInput where those
    alive hold no such CLIP."""
    clips = _clips(call)
    if clips is None:
        return ""
    if model not in clips:
        raise InvalidInput(f"no worker has the CLIP {model}", field="model", limit=f"one of {', '.join(sorted(clips))}")
    return clips[model]


def _clips(call: Call) -> dict[str, str] | None:
    """Weights of every CLIP that live workers hold, by id; None where no worker is alive."""
    workers = call.services.fleet.pool(call.services.settings.pool).workers
    if not workers:
        return None
    served = [model for worker in workers for model in worker.models]
    return {model["id"]: str(model.get("sha256") or "") for model in served if model.get("family") == "clip"}


def _document(found: Collection, clips: dict[str, str] | None) -> dict[str, Any]:
    is_stale = None if clips is None else bool(found.fingerprint) and clips.get(found.model) != found.fingerprint
    url = f"/v1/collections/{found.name}"
    return {
        "name": found.name,
        "description": found.description,
        "model": found.model,
        "fingerprint": found.fingerprint,
        "width": found.width,
        "rows": found.rows,
        "bytes": found.bytes,
        "fields": found.fields,
        "changes": found.changes,
        "stale": is_stale,
        "created_at": rfc3339(found.created_at_ms),
        "changed_at": rfc3339(found.changed_at_ms),
        "reembedding": bool(found.next_table),
        "urls": {"self": url, "images": f"{url}/images", "search": "/v1/search"},
    }
