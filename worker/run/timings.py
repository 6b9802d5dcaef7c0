"""What each stage of a run took."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from shared.records.job import Claim

__all__ = ["Timings"]


class Timings:
    """Seconds by name, names ending in _s. Begins with the claim; used by the run's own thread only."""

    def __init__(self, claim: Claim) -> None:
        self._started_at = time.monotonic()
        self._seconds = {"queue_s": max(0, claim.claimed_at_ms - claim.queued_at_ms) / 1000}

    @contextmanager
    def stage(self, name: str, applies: bool) -> Iterator[None]:
        """Note under `name` what the block takes, if it applies to this run at all."""
        started_at = time.monotonic()
        try:
            yield
        finally:
            if applies:
                self._seconds[name] = round(time.monotonic() - started_at, 6)

    def add(self, seconds: Mapping[str, float]) -> None:
        """What an engine measured itself."""
        self._seconds.update((name, round(value, 6)) for name, value in seconds.items())

    def ended(self) -> None:
        """All but telling the store is done."""
        self._seconds["run_s"] = round(time.monotonic() - self._started_at, 6)

    def as_dict(self) -> dict[str, float]:
        """Those noted so far."""
        return dict(self._seconds)
