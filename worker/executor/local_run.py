"""One spec in this process, from engine to encoded files: no queue, no Redis, no object store.

For debugging and for small needs. Engine, options and encoding are a worker's, so the same spec with the same settings
gives the same pictures as a queued job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PIL.Image import Image

from shared.settings import Settings
from shared.specs.types import Spec
from worker.engine_metrics import engine_options
from worker.engines.base import Task
from worker.engines.registry import build_engines
from worker.engines.scheduling.device_lock import DeviceLock
from worker.transfer.encode import EncodedOutput, encode

__all__ = ["LocalContext", "LocalRun", "run_here"]


def _ignore(*_: object) -> None:
    """A report that nobody wants."""


@dataclass(frozen=True)
class LocalContext:
    """What an engine reports to: see worker.engines.base.RunContext. Nothing stops such a run but its process' end."""

    on_progress: Callable[[str, int, int], None] = _ignore
    on_preview: Callable[[Image, int], None] = _ignore

    def check(self) -> None:
        """Nobody cancels, no lease is lost."""

    def progress(self, stage: str, step: int, total: int) -> None:
        """Hand on where the run is."""
        self.on_progress(stage, step, total)

    def preview(self, image: Image, step: int) -> None:
        """Hand on a picture of the unfinished result."""
        self.on_preview(image, step)

    def snapshot(self, _step: int, _make: Callable[[], bytes]) -> None:
        """Nobody would go on from it."""

    def resumed(self, _step: int) -> None:
        """Never: there was nothing to go on from."""


@dataclass(frozen=True)
class LocalRun:
    """What came of it."""

    encoded: EncodedOutput
    timings: dict[str, float]  # seconds per stage, as on a job's record, and load_s


def run_here(spec: Spec, images: Mapping[str, Image], settings: Settings, context: LocalContext) -> LocalRun:
    """Run `spec` with a worker's settings; `images` by the references the spec names, RGB. Raises DreamqueueError."""
    started_at = time.monotonic()
    engine = build_engines([spec.kind], engine_options(settings, DeviceLock()))[spec.kind]
    engine.load()
    loaded_at = time.monotonic()
    output = engine.run(Task(spec, images), context)
    made_at = time.monotonic()
    encoded = encode(output)
    ended_at = time.monotonic()
    timings = {
        "load_s": loaded_at - started_at,
        **output.timings,
        "encode_s": ended_at - made_at,
        "run_s": ended_at - loaded_at,
    }
    return LocalRun(encoded, {name: round(seconds, 6) for name, seconds in timings.items()})
