"""`python -m tests.support.doomed after_upload:3`: the worker, but it kills itself at the third pass of that point.

A fail-point is armed here, from outside: no setting of a worker does it.
"""

from __future__ import annotations

import functools
import sys

from worker import app, node
from worker.run.failpoints import FailPoints

__all__ = ["arm", "main"]


def arm(told: str) -> None:
    """The worker of this process dies at that point (worker/run/failpoints.py); nowhere when empty."""
    node.FailPoints = functools.partial(FailPoints, told)  # type: ignore[misc, assignment]


def main() -> int:
    """Run it."""
    arm(sys.argv.pop(1))
    return app.main()


if __name__ == "__main__":
    raise SystemExit(main())
