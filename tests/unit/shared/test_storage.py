"""What a put believes of the object store's answer."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import pytest

from shared import storage
from shared.errors import ObjectStoreUnavailable
from shared.settings import Settings
from shared.storage import ObjectStore


class Bucket:
    """A client that keeps `kept` of whatever is sent, and answers with `etag`."""

    def __init__(self, kept: bytes, etag: str) -> None:
        self.kept, self.etag, self.reads = kept, etag, 0

    def put_object(self, **_: Any) -> dict[str, Any]:
        return {"ETag": self.etag}

    def get_object(self, **_: Any) -> dict[str, Any]:
        self.reads += 1
        return {"Body": io.BytesIO(self.kept)}


def put(bucket: Bucket) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "s3_client", lambda *_: bucket)
        objects = ObjectStore(Settings())
    return objects.put("k", b"sent", "text/plain").sha256


def etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def test_the_md5_of_what_was_sent_is_enough() -> None:
    bucket = Bucket(b"sent", etag(b"sent"))
    assert put(bucket) == hashlib.sha256(b"sent").hexdigest()
    assert bucket.reads == 0


@pytest.mark.parametrize("answer", ["", '"0123-2"', etag(b"encrypted")])
def test_a_store_with_other_etags_is_read_back(answer: str) -> None:
    bucket = Bucket(b"sent", answer)
    put(bucket)
    assert bucket.reads == 1


def test_what_arrived_changed_is_as_good_as_not_sent() -> None:
    with pytest.raises(ObjectStoreUnavailable, match="something else"):
        put(Bucket(b"sfnt", etag(b"sfnt")))
