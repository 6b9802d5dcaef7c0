"""Stores pictures of unfinished results from one thread, one at a time, and never holds up an engine."""

from __future__ import annotations

import queue

from PIL.Image import Image

from shared.errors import Unavailable
from shared.logs import get_logger
from shared.metrics import UPLOADED_BYTES
from shared.storage import ObjectStore, artifact_key
from worker.run.context import JobContext
from worker.run.hooks import Hook
from worker.run.progress_writer import ProgressWriter
from worker.threads import PeriodicThread
from worker.transfer.encode import png_bytes

__all__ = ["Previews"]

log = get_logger(__name__)


class Previews(Hook):
    """At most one preview per run is on its way; engines' next ones are dropped until it has arrived."""

    def __init__(self, objects: ObjectStore, progress: ProgressWriter) -> None:
        self._objects = objects
        self._progress = progress
        self._waiting: queue.SimpleQueue[tuple[JobContext, Image, int]] = queue.SimpleQueue()
        self.thread = PeriodicThread("previews", 0.0, self._store_next)

    def preview_made(self, context: JobContext, image: Image, step: int) -> None:
        """Accept it; the run has none in flight."""
        context.preview_started()
        self._waiting.put((context, image, step))

    def _store_next(self) -> None:
        try:
            context, image, step = self._waiting.get(timeout=1.0)
        except queue.Empty:
            return
        try:
            self._store(context, image, step)
        except Unavailable as error:
            log.debug("preview dropped", error=error.message)
        finally:
            context.preview_ended()

    def _store(self, context: JobContext, image: Image, step: int) -> None:
        if context.is_closed:
            return
        claim = context.claim
        name = f"preview-{step:06d}.png"
        key = artifact_key(claim.tenant, claim.id, claim.attempt, name)
        stored = self._objects.put(key, png_bytes(image), "image/png")
        UPLOADED_BYTES.labels("preview").inc(stored.bytes)
        preview = {"name": name, "key": key, "step": step}
        context.note_preview(preview)
        self._progress.write(context, "preview", {**preview, "fraction": context.latest.get("fraction", 0.0)})
