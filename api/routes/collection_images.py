"""/v1/collections/{name}/images: pictures into a collection and out of it, by jobs."""

from __future__ import annotations

import re

from flask import Response

from api.answers import KEY_HEADER, PREFER_HEADER
from api.incoming import json_body
from api.routes.collections import job_of_collection, part_body
from api.routing import Call, Routes, problems
from api.schemas import Job
from shared.errors import InvalidInput, NotFound

__all__ = ["routes"]

IMAGE_ID = re.compile(r"^img_[0-9a-f]{64}$")
STARTED = {202: Job, 200: Job, **problems(400, 404, 409, 413, 415, 429)}
HEADERS = (KEY_HEADER, PREFER_HEADER)

routes = Routes("collections", "Pictures that can be searched")


@routes.add(
    "POST", "/v1/collections/<name>/images", scope="jobs:write", responses=STARTED, openapi=part_body("IndexInput"),
    headers=HEADERS,
)  # fmt: skip
def add_images(call: Call, name: str) -> Response:
    """Put pictures into a collection.

    As JSON: uploaded pictures, artifacts and URLs with their metadata, or all that a job of yours made. Starts an
    `index` job, in whose result a picture that cannot be read is an error of its own.
    """
    body = json_body()
    if isinstance(body, dict) and "archive" in body:
        raise InvalidInput("an archive is sent, not named", field="archive")
    return job_of_collection(call, name, "index", body)


@routes.add(
    "DELETE", "/v1/collections/<name>/images/<image_id>", scope="jobs:write",
    responses={202: Job, 200: Job, **problems(404, 409, 429)}, headers=HEADERS,
)  # fmt: skip
def remove_image(call: Call, name: str, image_id: str) -> Response:
    """Take one picture out of a collection. Starts a `remove` job; the picture itself stays."""
    if not IMAGE_ID.match(image_id):
        raise NotFound(f"no picture {image_id[:80]}")
    return job_of_collection(call, name, "remove", {"ids": [image_id]})


@routes.add(
    "POST", "/v1/collections/<name>/images/delete", scope="jobs:write", responses=STARTED,
    openapi=part_body("RemoveInput"), headers=HEADERS,
)  # fmt: skip
def remove_images(call: Call, name: str) -> Response:
    """Take pictures out of a collection, by id or by a filter on their metadata. Starts a `remove` job."""
    return job_of_collection(call, name, "remove", json_body())
