"""Uploaded pictures: measured before they are decoded, decoded whole before they are kept."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

from PIL import Image

from shared.errors import InvalidInput
from shared.specs.pictures import why_too_costly

__all__ = ["Picture", "inspected"]

CONTENT_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


@dataclass(frozen=True)
class Picture:
    """What an upload turned out to be."""

    width: int
    height: int
    content_type: str


def inspected(body: bytes, max_pixels: int) -> Picture:
    """Read the header, check the size, then decode every row of the first frame. Raises InvalidInput.

    Decoding is what finds truncated and lying files; the size check before it bounds memory to 4 bytes a pixel.
    """
    if excess := why_too_costly(body):
        raise InvalidInput(f"the picture has {excess}", field="image", limit="a picture that costs little to decode")
    try:
        with Image.open(io.BytesIO(body), formats=list(CONTENT_TYPES)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise InvalidInput(
                    f"the picture has {width}x{height} pixels", field="image", limit=f"{max_pixels} pixels"
                )
            content_type = CONTENT_TYPES[image.format or ""]
            image.verify()  # PNG: every chunk's checksum, and the end
        with Image.open(io.BytesIO(body), formats=list(CONTENT_TYPES)) as image:
            image.load()
    except InvalidInput:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidInput("the picture is too large", field="image", limit=f"{max_pixels} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, struct.error, Warning, MemoryError):
        raise InvalidInput("not a readable picture", field="image", limit="a whole PNG, JPEG or WebP file") from None
    return Picture(width, height, content_type)
