"""Where the pictures of collections come from, and where they are kept: the object store and the web."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

from shared.errors import Expired, InvalidInput, NotFound
from shared.settings import Settings
from shared.specs.clip import IndexItem
from shared.storage import ObjectStore, image_key, input_key
from shared.store.jobs import JobStore
from worker.collections.sources import Archive, by_job
from worker.collections.url_fetcher import UrlFetcher
from worker.run.context import JobContext
from worker.run.retry import retry_while_away
from worker.transfer.inputs import Inputs, decode_picture

if TYPE_CHECKING:
    from worker.engines.collection_access import Loaded

__all__ = ["Pictures"]

TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}


class Pictures:
    """One per process; every call is on behalf of a job, whose end it waits no longer than."""

    def __init__(self, store: JobStore, objects: ObjectStore, inputs: Inputs, settings: Settings) -> None:
        self._store = store
        self._objects = objects
        self._inputs = inputs
        self._settings = settings
        self._fetcher = UrlFetcher(settings)

    def read(self, ref: str, context: JobContext) -> bytes:
        """An upload, or a finished job's picture. Raises UnreadableImage."""
        return self._inputs.fetch_bytes(ref, context)

    def decode(self, body: bytes, ref: str) -> Image.Image:
        """Within the limits of the settings. Raises UnreadableImage."""
        return decode_picture(body, ref, self._settings.image_max_pixels)

    def fetch(self, url: str, context: JobContext) -> bytes:
        """What lies at an address. Raises InvalidInput."""
        return self._fetcher.get(url, context.check)

    def archive(self, ref: str, context: JobContext) -> Archive:
        """An uploaded archive, to be closed. Raises InvalidInput where it is gone or none, ObjectStoreUnavailable,
        Stopped."""
        key = input_key(context.claim.tenant, ref)
        try:
            return retry_while_away(
                lambda: Archive(self._objects, key, self._settings.image_max_bytes, context.check),
                context,
                self._settings.upload_patience_s,
                keep_through=(),
            )
        except NotFound:
            raise InvalidInput(f"the archive {ref} is gone", field="archive") from None

    def of_job(self, tenant: str, job_id: str) -> list[IndexItem]:
        """What a finished job made. Raises InvalidInput."""
        try:
            return by_job(self._store.get(tenant, job_id))
        except (NotFound, Expired) as error:
            raise InvalidInput(error.message, field="job") from None

    def keep(self, tenant: str, loaded: Loaded, context: JobContext) -> None:
        """Store a picture under its id, as uploads lie. Raises ObjectStoreUnavailable, Stopped."""
        if loaded.body is None:
            return
        body, key = loaded.body, image_key(tenant, loaded.id.removeprefix("img_"))
        with Image.open(io.BytesIO(body)) as image:
            content_type = TYPES.get(image.format or "", "application/octet-stream")
        retry_while_away(
            lambda: self._objects.put(key, body, content_type),
            context,
            self._settings.upload_patience_s,
            keep_through=(),
        )
