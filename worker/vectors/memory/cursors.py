"""Where a page of hits ends, as an opaque text. The next page begins behind it, whatever was added or removed since."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import struct
from dataclasses import dataclass

from shared.errors import InvalidInput
from shared.specs.filters import AnyFilter

__all__ = ["Place", "digest_of", "place_in", "text_of"]

DIGEST_BYTES = 12


@dataclass(frozen=True)
class Place:
    """The last hit of a page: the next ones have a lower cosine, or the same one and a later id."""

    cosine: float  # a float32's value
    id: str


def digest_of(asked: str, filter_: AnyFilter | None, *options: float | None) -> bytes:
    """Of all that decides on the order of hits: a cursor is good for that query only. `asked` says the query in words:
    its vector differs by a last bit from one batch to the next."""
    said = filter_.model_dump(mode="json", by_alias=True, exclude_none=True) if filter_ else None
    text = json.dumps([asked, said, *options], sort_keys=True).encode()
    return hashlib.sha256(text).digest()[:DIGEST_BYTES]


def text_of(place: Place, digest: bytes) -> str:
    """The cursor."""
    return base64.urlsafe_b64encode(digest + struct.pack("<f", place.cosine) + place.id.encode()).decode().rstrip("=")


def place_in(cursor: str, digest: bytes) -> Place:
    """Raises InvalidInput for what is no cursor, or one of another query."""
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        (cosine,) = struct.unpack_from("<f", raw, DIGEST_BYTES)
        id_ = raw[DIGEST_BYTES + 4 :].decode()
    except (binascii.Error, struct.error, ValueError):
        raise InvalidInput("this is no cursor", field="cursor") from None
    if raw[:DIGEST_BYTES] != digest:
        raise InvalidInput("the cursor belongs to another search", field="cursor", limit="the same query and options")
    return Place(cosine, id_)
