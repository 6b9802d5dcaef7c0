"""Pictures and archives that a request brings for a collection: read, looked at, and only then stored."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from flask import request
from werkzeug.datastructures import FileStorage

from api.http.offload import offloaded
from api.http.problems import Rejected
from api.uploads.archive_rules import ArchiveLimits
from api.uploads.archives import Archive, inspected_archive
from api.uploads.pictures import inspected
from shared.errors import InvalidInput
from shared.settings import Settings
from shared.storage import ObjectStore, image_key

__all__ = ["ARCHIVE_TYPES", "MAX_PICTURES", "SentPicture", "Upload", "sent_archive", "sent_form"]

ARCHIVE_TYPES = (
    "application/zip",
    "application/x-zip-compressed",
    "application/x-tar",
    "application/gzip",
    "application/x-gzip",
    "application/octet-stream",
)
MAX_PICTURES = 200  # of one form; more of them come as an archive
FORM_OVERHEAD = 1024 * 1024  # bytes that a multipart body may add to what is in it
PIECE = 256 * 1024


@dataclass(frozen=True)
class SentPicture:
    """One that was looked at. Its bytes stay in the request."""

    sha256: str
    content_type: str
    metadata: dict[str, Any]
    sent: FileStorage

    @property
    def item(self) -> dict[str, Any]:
        """As an index job's spec names it."""
        return {"image": f"img_{self.sha256}", "metadata": self.metadata}

    def store(self, objects: ObjectStore, tenant: str) -> None:
        """Keep it, by its content."""
        self.sent.stream.seek(0)
        objects.put(image_key(tenant, self.sha256), self.sent.stream.read(), self.content_type)


@dataclass(frozen=True)
class Upload:
    """What a form brought: one archive, or pictures."""

    archive: Archive | None
    pictures: list[SentPicture]


@contextmanager
def sent_archive(settings: Settings) -> Iterator[Archive]:
    """The body as an archive, in a file that goes with the request. Raises InvalidInput, and by Flask 413."""
    request.max_content_length = settings.archive_max_bytes
    with tempfile.TemporaryFile() as file:
        while piece := request.stream.read(PIECE):
            file.write(piece)
        with _inspected(cast(BinaryIO, file), settings) as archive:
            yield archive


@contextmanager
def sent_form(settings: Settings) -> Iterator[Upload]:
    """The form's archive, or all its pictures. Raises InvalidInput (also Rejected), and by Flask 413."""
    request.max_content_length = settings.archive_max_bytes + FORM_OVERHEAD
    request.max_form_parts = MAX_PICTURES + 8
    request.max_form_memory_size = settings.body_max_bytes
    archives, images = request.files.getlist("archive"), request.files.getlist("image")
    for name in {*request.files, *request.form} - {"archive", "image", "metadata"}:
        raise InvalidInput("unknown part", field=str(name)[:64], limit="image, metadata, archive")
    if bool(images) == bool(archives) or len(archives) > 1:
        raise InvalidInput("send image parts, or one archive", field="image")
    if archives:
        if "metadata" in request.files or "metadata" in request.form:
            raise InvalidInput("an archive has its metadata in it", field="metadata")
        with _inspected(cast(BinaryIO, archives[0].stream), settings) as archive:
            yield Upload(archive, [])
    else:
        yield Upload(None, _pictures(images, settings))


@contextmanager
def _inspected(file: BinaryIO, settings: Settings) -> Iterator[Archive]:
    archive = offloaded(inspected_archive, file, ArchiveLimits(settings.archive_max_bytes, settings.image_max_bytes))
    try:
        yield archive
    finally:
        archive.file.close()


def _pictures(images: list[FileStorage], settings: Settings) -> list[SentPicture]:
    if len(images) > MAX_PICTURES:
        raise InvalidInput("too many pictures in one form", field="image", limit=f"{MAX_PICTURES}; or send an archive")
    metadata = _metadata(images, settings)
    found, errors = [], []
    for index, sent in enumerate(images):
        try:
            found.append(_picture(sent, metadata.get(sent.filename or "", {}), settings))
        except InvalidInput as error:
            errors.append({"field": f"images.{index}", "message": error.message, "limit": error.limit})
    if errors:
        raise Rejected(errors[:20])
    return found


def _picture(sent: FileStorage, metadata: Any, settings: Settings) -> SentPicture:
    body = sent.stream.read(settings.image_max_bytes + 1)
    if not body:
        raise InvalidInput("no picture was sent")
    if len(body) > settings.image_max_bytes:
        raise InvalidInput("the picture has too many bytes", limit=f"{settings.image_max_bytes} bytes")
    picture = offloaded(inspected, body, settings.image_max_pixels)
    return SentPicture(hashlib.sha256(body).hexdigest(), picture.content_type, metadata, sent)


def _metadata(images: list[FileStorage], settings: Settings) -> dict[str, Any]:
    """The part `metadata`: by file name, each of which is one picture's. Its values are checked with the spec."""
    sent = request.files.get("metadata")
    raw = sent.stream.read(settings.body_max_bytes + 1) if sent else request.form.get("metadata", "{}").encode()
    if len(raw) > settings.body_max_bytes:
        raise InvalidInput("it is too long", field="metadata", limit=f"{settings.body_max_bytes} bytes")
    try:
        table = json.loads(raw)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise InvalidInput("should be a JSON object: file name -> metadata", field="metadata")
    names = [image.filename or "" for image in images]
    for name in table:
        if names.count(name) != 1:
            raise InvalidInput(
                f"{names.count(name)} pictures were sent under this name", field=f"metadata.{name}"[:200], limit="1"
            )
    return table
