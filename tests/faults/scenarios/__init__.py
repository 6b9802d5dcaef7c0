"""One fault each: `run(run)` breaks something while jobs come in, and returns the row of the ledger's verdict."""

from __future__ import annotations

import importlib
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["NAMES", "play"]

NAMES = ("worker_kill", "redis_kill", "api_kill", "worker_stop", "store_errors")


def play(name: str, seed: int, *, short: bool) -> dict[str, Any]:
    """Run one scenario in a folder of its own, deleted after a good end; its row as it is kept."""
    from tests.faults.storm import Run

    started_at = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"dq-{name}-") as folder:
        row = importlib.import_module(f"tests.faults.scenarios.{name}").run(Run(seed, short, Path(folder)))
        return dict(row.line(time.monotonic() - started_at, short))
