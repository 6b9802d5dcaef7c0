"""Numbers by which a cache knows which rows it has: another one at each write of a row, growing with time."""

from __future__ import annotations

import secrets
import threading
import time

import numpy as np

from worker.vectors.index import Int64s

__all__ = ["Revisions"]

RANDOM_BITS = 21  # below the milliseconds since 1970, which take 42 until the year 2109: 63 together


class Revisions:
    """Draws them. Thread-safe. Two processes could draw the same in one millisecond, which is unlikely; a cache notices
    that the table has more rows than revisions, and reads all anew."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def draw(self, count: int) -> Int64s:
        """So many, one after the other."""
        with self._lock:
            first = (time.time_ns() // 1_000_000 << RANDOM_BITS) | secrets.randbits(RANDOM_BITS)
            first = max(first, self._last + 1)  # a clock may be set back
            self._last = first + count - 1
        return np.arange(first, first + count, dtype=np.int64)
