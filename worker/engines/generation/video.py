"""The way of a picture as a video: an animated WebP of the frames that were kept."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import suppress

from PIL import Image

from shared.errors import Stopped
from shared.specs.generation import VqganClipSpec
from worker.engines.base import RunContext

__all__ = ["animated", "as_png", "frame_every"]

MAX_FRAMES = 200  # the first and the last are always among them
FRAME_MS = 100
LAST_MS = 1000


def frame_every(spec: VqganClipSpec) -> int:
    """Iterations from one frame to the next: as between previews, where that makes no more than MAX_FRAMES."""
    least = math.ceil(spec.iterations / (MAX_FRAMES - 1))
    return max(least, spec.preview_every or math.ceil(spec.iterations / 50))


def as_png(image: Image.Image) -> bytes:
    """A frame, small enough to be kept in a snapshot."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def animated(frames: Sequence[bytes], context: RunContext) -> bytes:
    """An animated WebP of PNGs."""
    buffer = io.BytesIO()
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    first, *rest = (Image.open(_Frame(frame, context)) for frame in frames)
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=durations, loop=0, quality=85, method=2)
    return buffer.getvalue()


class _Frame(io.BytesIO):
    """A PNG that is read when the video comes to it, which shows the watchdog that the job goes on."""

    def __init__(self, body: bytes, context: RunContext) -> None:
        super().__init__(body)
        self._context = context

    def read(self, size: int | None = -1, /) -> bytes:
        """Nothing stops the run here: its picture is made, and this is the way to keep it."""
        with suppress(Stopped):
            self._context.check()
        return super().read(size)
