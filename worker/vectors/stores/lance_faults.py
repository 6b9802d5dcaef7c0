"""Where LanceDB's errors become ours: here and nowhere else.

LanceDB has no errors of its own worth the name: its Rust core raises RuntimeError, ValueError and OSError with a text.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pyarrow as pa
from lancedb.exceptions import MissingColumnError

from shared.errors import VectorsUnavailable

__all__ = ["FOREIGN", "insisting", "is_conflict", "translated"]

# MissingColumnError and Arrow's errors for keys, types and memory have no parent among the first ones.
FOREIGN: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    OSError,
    pa.ArrowException,
    pa.lib.ArrowKeyError,
    pa.lib.ArrowIndexError,
    pa.lib.ArrowTypeError,
    pa.lib.ArrowMemoryError,
    pa.lib.ArrowNotImplementedError,
    MissingColumnError,
)

CONFLICT_PATIENCE_S = 60.0  # others may write as long as that before one's own write gives up
SAID_CHARS = 300  # of a foreign text that go into ours; it may hold the whole filter

T = TypeVar("T")


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raises VectorsUnavailable for all that LanceDB, Arrow and the system raise, a panic of the Rust core included."""
    try:
        yield
    except FOREIGN as error:
        raise VectorsUnavailable(_message(doing, error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3's; it derives from BaseException and cannot be imported
            raise
        raise VectorsUnavailable(_message(doing, error)) from error


def _message(doing: str, error: BaseException) -> str:
    return f"the vector index failed while {doing}: {type(error).__name__}: {str(error)[:SAID_CHARS]}"


def insisting(act: Callable[[], T], patience_s: float = CONFLICT_PATIENCE_S) -> T:
    """Do it again, after a random while, as long as it loses to other writers' commits. Raises what it raises."""
    until = time.monotonic() + patience_s
    pause_s = 0.02
    while True:
        try:
            return act()
        except (RuntimeError, ValueError, OSError) as error:
            if not is_conflict(error) or time.monotonic() > until:
                raise
        time.sleep(random.uniform(pause_s / 2, pause_s))
        pause_s = min(pause_s * 2, 1.0)


def is_conflict(error: Exception) -> bool:
    """Whether another writer's commit was first."""
    text = str(error).lower()
    return "conflict" in text or "concurrent" in text or "preempted" in text
