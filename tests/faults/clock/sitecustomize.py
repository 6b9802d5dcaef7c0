"""Python imports this at start where this folder is on PYTHONPATH: FAULTS_CLOCK_SHIFT_S moves the time of day."""

from __future__ import annotations

import datetime
import os
import time
from typing import Any

SHIFT_S = float(os.environ.get("FAULTS_CLOCK_SHIFT_S", "0"))


def _shift() -> None:
    true_time, true_datetime = time.time, datetime.datetime
    time.time = lambda: true_time() + SHIFT_S
    time.time_ns = lambda: int(time.time() * 1e9)

    class Shifted(true_datetime):
        """A datetime whose now is elsewhere."""

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return true_datetime.fromtimestamp(time.time(), tz)

        @classmethod
        def utcnow(cls) -> Any:
            return true_datetime.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)

    datetime.datetime = Shifted  # type: ignore[misc]


if SHIFT_S:
    _shift()
