"""The pictures a spec names: found, fetched, and decoded to RGB within the limits of the settings."""

from __future__ import annotations

import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from PIL import Image, ImageOps, UnidentifiedImageError

from shared.errors import Expired, NotFound, UnreadableImage
from shared.specs.pictures import why_too_costly
from shared.storage import ObjectStore, image_key
from shared.store.jobs import JobStore
from worker.run.context import JobContext
from worker.run.retry import retry_while_away

__all__ = ["Inputs", "decode_picture"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


class Inputs:
    """Reads uploaded pictures and the artifacts of finished jobs, of the job's own tenant only."""

    def __init__(
        self, store: JobStore, objects: ObjectStore, threads: ThreadPoolExecutor, *, max_pixels: int, patience_s: float
    ) -> None:
        self._store = store
        self._objects = objects
        self._max_pixels = max_pixels
        self._patience_s = patience_s
        self._threads = threads

    def fetch(self, refs: list[str], context: JobContext) -> Mapping[str, Image.Image]:
        """Every picture by its reference. Raises UnreadableImage, ObjectStoreUnavailable, Stopped."""

        def one(ref: str) -> Image.Image:
            return decode_picture(self.fetch_bytes(ref, context), ref, self._max_pixels)

        if len(refs) < 2:
            return {ref: one(ref) for ref in refs}
        return dict(zip(refs, self._threads.map(one, refs), strict=True))

    def fetch_bytes(self, ref: str, context: JobContext) -> bytes:
        """One picture as it was uploaded or made. Raises UnreadableImage, ObjectStoreUnavailable, Stopped."""
        key = self._key(context.claim.tenant, ref)
        try:
            return retry_while_away(lambda: self._objects.get(key), context, self._patience_s, keep_through=())
        except NotFound:
            raise UnreadableImage(f"the picture {ref} is gone") from None

    def _key(self, tenant: str, ref: str) -> str:
        if ref.startswith("img_"):
            return image_key(tenant, ref.removeprefix("img_"))
        job_id, _, name = ref.partition("/")
        try:
            found = self._store.get(tenant, job_id).picture(name)
        except (NotFound, Expired) as error:
            raise UnreadableImage(f"the picture {ref} cannot be read: {error.message}") from None
        if found is None:
            raise UnreadableImage(f"the picture {ref} cannot be read: its job made no picture of that name")
        return str(found["key"])


def decode_picture(body: bytes, ref: str, max_pixels: int) -> Image.Image:
    """RGB, upright, transparency on white. The size is checked before a pixel is read. Raises UnreadableImage."""
    if excess := why_too_costly(body):
        raise UnreadableImage(f"the picture {ref} has {excess}")
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise UnreadableImage(f"the picture {ref} has {width * height} pixels; the limit is {max_pixels}")
            image.load()
            upright = ImageOps.exif_transpose(image)
            if "A" in upright.getbands() or "transparency" in upright.info:
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
            return upright.convert("RGB")
    except UnidentifiedImageError:
        raise UnreadableImage(f"the picture {ref} cannot be decoded: it is no PNG, JPEG, WebP or GIF") from None
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads to: struct.error, IndexError, ...
        raise UnreadableImage(f"the picture {ref} cannot be decoded: {error}") from None
