"""/v1/collections/{name}/images: pictures into a collection and out of it, by jobs."""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import Any, cast

from flask import Response, request
from werkzeug.exceptions import UnsupportedMediaType

from api.http.offload import offloaded
from api.http.requests import idempotency_key, json_body
from api.http.routing import Call, Routes, problems
from api.routes.collections import job_of_collection, known_collection, part_body
from api.schemas.jobs import Job
from api.submission.admission import SubmitOptions, job_from_input
from api.submission.responses import KEY_HEADER, PREFER_HEADER, submitted_response
from api.uploads.archives import Archive
from api.uploads.forms import ARCHIVE_TYPES, SentPicture, sent_archive, sent_form
from shared.errors import InvalidInput, NotFound, ObjectStoreUnavailable
from shared.logs import get_logger
from shared.specs.clip import GENERATED
from shared.storage import input_key

__all__ = ["routes"]

log = get_logger(__name__)

IMAGE_ID = re.compile(r"^img_[0-9a-f]{64}$")
STARTED = {202: Job, 200: Job, **problems(400, 404, 409, 413, 415, 429)}
HEADERS = (KEY_HEADER, PREFER_HEADER)
BINARY = {"type": "string", "format": "binary"}
FORM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "image": {"type": "array", "items": BINARY, "description": "PNG, JPEG or WebP files, 200 at most"},
        "metadata": {"type": "string", "description": "JSON: file name -> metadata of that picture"},
        "archive": {**BINARY, "description": "or one .zip or .tar, gzip allowed"},
    },
}
ADDED = part_body("IndexInput")
ADDED["requestBody"]["content"] |= {
    "multipart/form-data": {"schema": FORM}, **{kind: {"schema": BINARY} for kind in ARCHIVE_TYPES},
}  # fmt: skip

routes = Routes("collections", "Pictures that can be searched")


@routes.add(
    "POST", "/v1/collections/<name>/images", scope="jobs:write", responses=STARTED, openapi=ADDED, headers=HEADERS
)
def add_images(call: Call, name: str) -> Response:
    """Put pictures into a collection.

    As JSON: uploaded pictures, artifacts and URLs with their metadata, or all that a job of yours made. As a form: up
    to 200 files, or an archive. As the body itself: a .zip or .tar of up to 10,000 pictures, with a table
    metadata.csv, metadata.json or metadata.jsonl at its root. Starts an `index` job, in whose result a picture that
    cannot be read is an error of its own.
    """
    if name != GENERATED:
        known_collection(call, name)
    if request.mimetype == "multipart/form-data":
        with sent_form(call.services.settings) as upload:
            if upload.archive is not None:
                return _add_archive(call, name, upload.archive)
            return _add_pictures(call, name, upload.pictures)
    if request.mimetype in ARCHIVE_TYPES:
        with sent_archive(call.services.settings) as archive:
            return _add_archive(call, name, archive)
    if not request.is_json:
        raise UnsupportedMediaType(f"send JSON, multipart/form-data or one of {', '.join(ARCHIVE_TYPES)}")
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
    if not IMAGE_ID.fullmatch(image_id):
        raise NotFound(f"no picture {image_id[:80]}")
    return job_of_collection(call, name, "remove", {"ids": [image_id]})


@routes.add(
    "POST", "/v1/collections/<name>/images/delete", scope="jobs:write", responses=STARTED,
    openapi=part_body("RemoveInput"), headers=HEADERS,
)  # fmt: skip
def remove_images(call: Call, name: str) -> Response:
    """Take pictures out of a collection, by id or by a filter on their metadata. Starts a `remove` job."""
    return job_of_collection(call, name, "remove", json_body())


def _add_pictures(call: Call, name: str, pictures: list[SentPicture]) -> Response:
    """All of them are good, and so is the job; now they are stored, as uploads are."""
    input_ = {"collection": name, "images": [picture.item for picture in pictures]}
    job = job_from_input(
        call.services, call.principal, "index", input_, SubmitOptions(str(uuid.uuid4()), idempotency_key())
    )
    for picture in pictures:
        picture.store(call.services.objects, call.tenant)
    return submitted_response(call, job)


def _add_archive(call: Call, name: str, archive: Archive) -> Response:
    """Stored beside the artifacts of the job that it starts, and gone with them; or at once, if no job comes of it."""
    objects = call.services.objects
    sha256 = offloaded(_sha256, archive)
    job_id = str(uuid.uuid4())
    ref = f"{job_id}/{archive.name}"
    options = SubmitOptions(
        job_id, idempotency_key(), fingerprint_of={"collection": name, "archive": sha256}, archive_ref=ref
    )
    job = job_from_input(call.services, call.principal, "index", {"collection": name, "archive": ref}, options)
    key = input_key(call.tenant, ref)

    def undo() -> None:
        try:
            objects.delete(key)
        except ObjectStoreUnavailable as error:
            log.warning("an archive stays that no job will read", key=key, error=error.message)

    try:
        objects.put_file(key, archive.file, archive.content_type, sha256=sha256)
    except ObjectStoreUnavailable:
        undo()
        raise
    return submitted_response(call, job, undo=undo)


def _sha256(archive: Archive) -> str:
    archive.file.seek(0)
    return hashlib.file_digest(cast(Any, archive.file), "sha256").hexdigest()
