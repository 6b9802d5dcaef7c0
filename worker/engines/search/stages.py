"""How long the stages of indexing and searching take, told as they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["SearchEvents", "StageClock"]


@dataclass(frozen=True)
class SearchEvents:
    """Told by the engines of collections; each does nothing unless it is given."""

    on_stage: Callable[[str, str, float], None] = lambda _what, _stage, _seconds: None  # `search` or `index`
    on_rows: Callable[[int, int, int], None] = lambda _added, _updated, _unchanged: None
    on_item_error: Callable[[str], None] = lambda _code: None


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
