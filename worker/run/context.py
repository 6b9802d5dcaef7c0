"""One run's line to the outside: what may stop it, and what it reports. No I/O happens on the engine's thread.

Whoever works on a run tells its context what happened, by a verb; nobody else sets an attribute of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from PIL.Image import Image

from shared.errors import Stopped
from shared.logs import get_logger
from shared.metrics import RUNS_RESUMED
from shared.records.job import Claim
from worker.run.progress import Progress
from worker.run.snapshot_slot import SnapshotSlot
from worker.run.stop_signal import StopSignal
from worker.run.timings import Timings

__all__ = ["EngineEvents", "JobContext"]

log = get_logger(__name__)


class EngineEvents(Protocol):
    """Who hears what an engine reports; the hooks, in a worker (worker/run/hooks.py)."""

    def progressed(self, context: JobContext) -> None:
        """The run took a step."""

    def preview_made(self, context: JobContext, image: Image, step: int) -> None:
        """Here is a picture of the unfinished result."""

    def snapshot_offered(self, context: JobContext) -> None:
        """The run can be saved as it is now."""


class JobContext:
    """Engines see worker.engines.base.RunContext; the rest of the worker uses the rest. Thread-safe."""

    def __init__(self, claim: Claim, *, claimed_at: float, lease_s: float, events: EngineEvents) -> None:
        self.claim = claim
        self.stop_signal = StopSignal(claim, claimed_at, lease_s)
        self.snapshots = SnapshotSlot(claim.snapshot, claimed_at)
        self.timings = Timings(claim)
        self._events = events
        self._progress = Progress()
        self._has_preview_in_flight = False
        self._thread = threading.get_ident()
        self._is_in_engine = False
        self._moved_at = claimed_at
        self._writing = threading.Lock()
        self._is_closed = False  # read and set under `_writing`

    # --- what an engine calls ------------------------------------------------------------------------------------

    def check(self, *, keep_through: tuple[type[Stopped], ...] = ()) -> None:
        """Raise what stops this run, if anything does; causes of the classes in `keep_through` are let pass."""
        self._moved_at = time.monotonic()
        self.stop_signal.check(self._moved_at, keep_through)

    def progress(self, stage: str, step: int, total: int) -> None:
        """Note where the run is; a background thread writes it, the latest note only. Also checks."""
        self._progress.note(stage, step, total)
        self._events.progressed(self)
        self.check()

    def preview(self, image: Image, step: int) -> None:
        """Hand a picture over to be stored; dropped while the last one is on its way."""
        if not self._has_preview_in_flight:
            self._events.preview_made(self, image, step)

    def snapshot(self, step: int, make: Callable[[], bytes]) -> None:
        """Offer to save the run; see worker.engines.base.RunContext."""
        self.snapshots.offered(step, make)
        self._events.snapshot_offered(self)

    def resumed(self, step: int) -> None:
        """The engine goes on from the snapshot it was given."""
        RUNS_RESUMED.labels(self.claim.kind).inc()
        log.info("resumed", step=step)

    # --- where it is -----------------------------------------------------------------------------------------------

    @contextmanager
    def in_engine(self) -> Iterator[None]:
        """Around what may hang on the device, on the thread that does it: the watchdog expects steps inside."""
        self._thread = threading.get_ident()
        self._moved_at = time.monotonic()
        self._is_in_engine = True
        try:
            yield
        finally:
            self._is_in_engine = False

    @property
    def is_in_engine(self) -> bool:
        """Whether the run is inside in_engine()."""
        return self._is_in_engine

    @property
    def thread(self) -> int:
        """The run's own, by its id."""
        return self._thread

    @property
    def moved_at(self) -> float:
        """Local monotonic time of the engine's last check."""
        return self._moved_at

    @property
    def latest(self) -> dict[str, Any]:
        """The last progress noted, with the last preview stored."""
        return self._progress.latest

    @property
    def is_amid_a_stage(self) -> bool:
        """Whether the run has taken steps like the one that is due."""
        return self._progress.is_amid_a_stage

    # --- what the rest of the worker tells it ------------------------------------------------------------------------

    def stop(self, cause: Stopped) -> None:
        """Make the next check raise, and wake whoever waits. A weaker cause does not replace a stronger one."""
        self.stop_signal.set(cause)

    def preview_started(self) -> None:
        """A preview is on its way; the engine's next ones are dropped."""
        self._has_preview_in_flight = True

    def note_preview(self, preview: dict[str, Any]) -> None:
        """It has arrived in the object store; its name, key and step."""
        self._progress.note_preview(preview)

    def preview_ended(self) -> None:
        """It arrived or was dropped."""
        self._has_preview_in_flight = False

    @contextmanager
    def writing(self) -> Iterator[bool]:
        """Around each write for this job that is not its last: whether it may still be made."""
        with self._writing:
            yield not self._is_closed

    @property
    def is_closed(self) -> bool:
        """Whether the run is over and only its last write is left."""
        return self._is_closed

    def close(self) -> None:
        """No report of this run is written after this returns, so none is refused as late."""
        with self._writing:
            self._is_closed = True
