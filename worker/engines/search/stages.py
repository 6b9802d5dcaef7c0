"""How long the stages of indexing and searching take, told as they end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from worker.engines.options import SearchEvents

__all__ = ["StageClock"]


class StageClock:
    """The stages of one run; those of the same name add up."""

    def __init__(self, what: str, events: SearchEvents) -> None:
        self.events = events
        self._what = what
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Around one."""
        started_at = time.perf_counter()
        try:
            yield
        finally:
            took_s = time.perf_counter() - started_at
            self._seconds[name] = self._seconds.get(name, 0.0) + took_s
            self.events.on_stage(self._what, name, took_s)

    @property
    def timings(self) -> dict[str, float]:
        """As an engine's output names them."""
        return {f"{name}_s": seconds for name, seconds in self._seconds.items()}
