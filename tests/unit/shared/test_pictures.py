"""Pictures that cost much to decode are told by their bytes alone, at the door and in the worker."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image

from api.uploads.pictures import inspected
from shared.errors import InvalidInput, UnreadableImage
from shared.specs.pictures import MAX_CHUNKS, MAX_SCANS, PNG_SIGNATURE, why_too_costly
from worker.transfer.inputs import decode_picture

PIXELS = 32 * 2**20


def jpeg(size: int = 64, **options: object) -> bytes:
    """A picture with structure in it."""
    buffer = io.BytesIO()
    Image.effect_mandelbrot((size, size), (-3, -2.5, 2, 2.5), 50).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_scans(body: bytes, count: int) -> bytes:
    """The last scan of a progressive JPEG, again and again: valid refinements of nothing."""
    at = body.rindex(b"\xff\xda")
    return body[:at] + body[at:-2] * count + body[-2:]


def png_with_chunks(count: int) -> bytes:
    """Small private chunks between header and pixels."""
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PNG")
    body = buffer.getvalue()
    chunk = struct.pack(">I", 0) + b"prVt" + struct.pack(">I", zlib.crc32(b"prVt"))
    return body[:33] + chunk * count + body[33:]


@pytest.mark.parametrize(
    "body",
    [jpeg(progressive=True), jpeg(), jpeg(quality=100, progressive=True, subsampling=0),
     with_scans(jpeg(progressive=True), 80), png_with_chunks(1_000)],
    ids=["progressive", "baseline", "finest", "many scans", "many chunks"],
)  # fmt: skip
def test_what_encoders_write_passes(body: bytes) -> None:
    assert why_too_costly(body) is None
    assert inspected(body, PIXELS).width
    assert decode_picture(body, "r", PIXELS).size


@pytest.mark.parametrize(
    "body",
    [with_scans(jpeg(progressive=True), MAX_SCANS + 1), with_scans(jpeg(1024, progressive=True), 2_000),
     b"\xff\xd8" + b"\xff\xda" * 5_000_000, png_with_chunks(MAX_CHUNKS + 1), PNG_SIGNATURE + bytes(12) * 800_000],
    ids=["one scan more", "large", "nothing but scans", "one chunk more", "empty chunks"],
)  # fmt: skip
def test_what_was_made_to_cost_is_refused_undecoded(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object, **__: object) -> None:
        raise AssertionError("it was opened")

    monkeypatch.setattr(Image, "open", decoded)
    with pytest.raises(InvalidInput):
        inspected(body, PIXELS)
    with pytest.raises(UnreadableImage):
        decode_picture(body, "r", PIXELS)


def test_zero_lengths_and_lies_end_the_walk() -> None:
    assert why_too_costly(PNG_SIGNATURE) is None
    assert why_too_costly(PNG_SIGNATURE + b"\xff" * 40) is None
