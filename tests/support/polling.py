"""Waiting in tests: for a fact, with a deadline, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["eventually"]

T = TypeVar("T")


def eventually(probe: Callable[[], T | None], *, within_s: float = 10.0, what: str = "") -> T:
    """Call `probe` until it returns something true; fails with `what` after `within_s`."""
    end = time.monotonic() + within_s
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {within_s:g} s: {what or probe}")
        time.sleep(0.01)
