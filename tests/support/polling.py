"""Waiting in tests: for a fact, with a deadline, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["PATIENCE_S", "eventually"]

# What has not come by then does not come. Long, for a machine that others load: no test judges speed by it, the fault
# scenarios and the benchmarks do that.
PATIENCE_S = 120.0

T = TypeVar("T")


def eventually(probe: Callable[[], T | None], *, within_s: float = PATIENCE_S, what: str = "") -> T:
    """Call `probe` until it returns something true; fails with `what` after `within_s`."""
    end = time.monotonic() + within_s
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {within_s:g} s: {what or probe}")
        time.sleep(0.01)
