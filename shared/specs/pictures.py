"""What a picture's bytes may ask of whoever decodes them, looked at before anything is decoded. The door and the worker
hold pictures to the same rules."""

from __future__ import annotations

__all__ = ["MAX_CHUNKS", "MAX_SCANS", "why_too_costly"]

MAX_SCANS = 100  # of a JPEG: each is another pass over all its pixels; progressive ones have about ten
MAX_CHUNKS = 20_000  # of a PNG: encoders write 8 KB and more into one
START_OF_SCAN = b"\xff\xda"  # not in compressed data, where a zero follows each 0xff
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def why_too_costly(body: bytes) -> str | None:
    """What about an encoded picture is over the limit; None where nothing is. Says nothing about its size in pixels.
    Costs one pass over the bytes at most."""
    if body.startswith(b"\xff\xd8") and (scans := body.count(START_OF_SCAN)) > MAX_SCANS:
        return f"{scans} scans; the limit is {MAX_SCANS}"
    if body.startswith(PNG_SIGNATURE) and _has_many_chunks(body):
        return f"more than {MAX_CHUNKS} chunks"
    return None


def _has_many_chunks(body: bytes) -> bool:
    at = len(PNG_SIGNATURE)
    for _ in range(MAX_CHUNKS):
        at += 12 + int.from_bytes(body[at : at + 4], "big")  # length, name, content, checksum
        if at >= len(body):
            return False
    return True
