"""One run's line to the outside: what may stop it, and what it reports. No I/O happens on the engine's thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from shared.errors import Cancelled, DeadlineExceeded, Draining, LeaseLost, Stopped, Yielded
from shared.logs import get_logger
from shared.metrics import RUNS_RESUMED
from shared.records.job import Claim, SavedRun
from shared.store.jobs import Signal

__all__ = ["JobContext", "Offer"]

log = get_logger(__name__)

# What the higher one says goes: a job that is someone else's is not ours to cancel or give back.
_RANK: dict[type[Stopped], int] = {Yielded: 0, Draining: 1, Cancelled: 2, LeaseLost: 3}
_RUNNING_SHARE = 0.95  # of the progress bar; the rest is encoding, upload and commit


@dataclass(frozen=True)
class Offer:
    """The run can be saved as it is after `step`, by calling `make` from its own thread."""

    step: int
    make: Callable[[], bytes]


class JobContext:
    """Engines see worker.engines.base.RunContext; heartbeat and drain use the rest. Thread-safe.

    `lease_until` is the local monotonic time until which the job is surely ours.
    """

    def __init__(
        self,
        claim: Claim,
        *,
        claimed_at: float,
        lease_s: float,
        on_progress: Callable[[JobContext], None],
        on_preview: Callable[[JobContext, Image, int], None],
        on_snapshot: Callable[[JobContext], None] = lambda _context: None,
    ) -> None:
        self.claim = claim
        self.lease_until = claimed_at + lease_s
        self.thread = threading.get_ident()  # the run's own
        self.is_in_engine = False
        self.moved_at = claimed_at  # local monotonic time of the engine's last check
        self._lease_s = lease_s
        self._deadline = _deadline(claim, claimed_at)
        self._on_progress = on_progress
        self._on_preview = on_preview
        self._on_snapshot = on_snapshot
        self._cause: Stopped | None = None
        self.stopped_at = 0.0  # local monotonic time of the latest cause
        self._interrupted = threading.Event()
        self._progress: dict[str, Any] = {}
        self._preview: dict[str, Any] | None = None
        self._fraction = 0.0
        self.writing = threading.Lock()  # held around each write for this job that is not its last
        self.is_closed = False  # read and set under `writing`
        self.has_preview_in_flight = False
        self.offer: Offer | None = None  # the latest, while the engine runs
        self.has_snapshot_in_flight = False
        self.saved: SavedRun | None = None  # the last snapshot of this attempt that was noted
        self.saved_at = claimed_at  # local monotonic time of the last snapshot, good or not

    # --- what an engine calls ------------------------------------------------------------------------------------

    def check(self, *, keep_through: tuple[type[Stopped], ...] = ()) -> None:
        """Raise what stops this run, if anything does; causes of the classes in `keep_through` are let pass."""
        self.moved_at = time.monotonic()
        if self._cause is not None and not isinstance(self._cause, keep_through):
            raise self._cause
        if self._deadline is not None and self.moved_at > self._deadline and DeadlineExceeded not in keep_through:
            raise DeadlineExceeded("the deadline passed while the job ran")

    def progress(self, stage: str, step: int, total: int) -> None:
        """Note where the run is; a background thread writes it, the latest note only. Also checks."""
        self._fraction = max(self._fraction, _RUNNING_SHARE * min(1.0, step / max(1, total)))
        self._progress = {"fraction": round(self._fraction, 4), "stage": stage, "step": step, "total": total}
        self._on_progress(self)
        self.check()

    def preview(self, image: Image, step: int) -> None:
        """Hand a picture over to be stored; dropped while the last one is on its way."""
        if not self.has_preview_in_flight:
            self._on_preview(self, image, step)

    def snapshot(self, step: int, make: Callable[[], bytes]) -> None:
        """Offer to save the run; see worker.engines.base.RunContext."""
        self.offer = Offer(step, make)
        self._on_snapshot(self)

    def resumed(self, step: int) -> None:
        """The engine goes on from the snapshot it was given."""
        RUNS_RESUMED.labels(self.claim.kind).inc()
        log.info("resumed", step=step)

    # --- what the rest of the worker calls -----------------------------------------------------------------------

    @property
    def latest(self) -> dict[str, Any]:
        """The last progress noted, with the last preview stored."""
        return self._progress if self._preview is None else {**self._progress, "preview": self._preview}

    def note_preview(self, preview: dict[str, Any]) -> None:
        """A preview has arrived in the object store; its name, key and step."""
        self._preview = preview

    def is_stopped_by(self, cause: type[Stopped]) -> bool:
        """Whether that is what stops the run."""
        return isinstance(self._cause, cause)

    def stop(self, cause: Stopped) -> None:
        """Make the next check raise, and wake whoever waits. A weaker cause does not replace a stronger one."""
        if self._cause is None or _RANK[type(cause)] > _RANK[type(self._cause)]:
            self._cause = cause
            self.stopped_at = time.monotonic()
            self._interrupted.set()

    def renewed(self, at: float, signal: Signal) -> None:
        """Take in what the store answered to a renewal that was sent at local time `at`."""
        if signal is Signal.LOST:
            self.stop(LeaseLost("another attempt owns this job"))
            return
        self.lease_until = max(self.lease_until, at + self._lease_s)
        if signal is Signal.CANCEL:
            self.stop(Cancelled("cancelled by the caller"))
        elif signal is Signal.YIELD:
            self.stop(Yielded("paused, or called away for a job of high priority"))

    def wait(self, seconds: float) -> None:
        """Sleep, but not past an interruption."""
        if not self._interrupted.wait(seconds):
            return
        self._interrupted.clear()

    def close(self) -> None:
        """No report of this run is written after this returns, so none is refused as late."""
        with self.writing:
            self.is_closed = True


def _deadline(claim: Claim, claimed_at: float) -> float | None:
    if claim.deadline_at_ms is None:
        return None
    return claimed_at + (claim.deadline_at_ms - claim.claimed_at_ms) / 1000
