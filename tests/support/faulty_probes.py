"""`python -m tests.support.faulty_probes hangs`: the worker, but its probe engine has a fault of a device's.

A fault strikes probes of particular numbers of steps; all others run as they should.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from shared.errors import OutOfMemory
from worker import app
from worker.engines.probe import ProbeEngine

__all__ = ["HANGING_STEPS", "HUNGRY_STEPS", "POISON_STEPS", "main"]

HANGING_STEPS = 75
HUNGRY_STEPS = 76
POISON_STEPS = 77


def hang() -> None:
    """A call to the device that does not return, and looks up for nobody."""
    time.sleep(3600)


def fill_device() -> None:
    """The device has no memory left."""
    raise OutOfMemory("full")


def die() -> None:
    """A segmentation fault, as far as others can see."""
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS: dict[str, tuple[int, Callable[[], None]]] = {
    "hangs": (HANGING_STEPS, hang),
    "is full": (HUNGRY_STEPS, fill_device),
    "dies": (POISON_STEPS, die),
}


def main() -> int:
    """Run it."""
    steps, strike = FAULTS[sys.argv.pop(1)]
    whole = ProbeEngine.run

    def run(self: ProbeEngine, task: Any, context: Any) -> Any:
        if task.spec.steps == steps:
            strike()
        return whole(self, task, context)

    ProbeEngine.run = run  # type: ignore[method-assign]
    return app.main()


if __name__ == "__main__":
    raise SystemExit(main())
