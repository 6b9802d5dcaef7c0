"""Named places where a worker kills itself with SIGKILL when told to, so that tests of faults hit the same gap again.

No setting arms one: only tests do, from outside (tests/support/doomed.py). `after_upload` kills at the first pass of
that point, `after_upload:3` at the third; passes are counted over all jobs of the process. Unarmed, a point is one
comparison.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading

from worker.run.context import JobContext
from worker.run.hooks import Ended, Hook

__all__ = ["AFTER_CLAIM", "AFTER_COMMIT", "AFTER_UPLOAD", "BEFORE_SNAPSHOT", "BEFORE_UPLOAD", "POINTS", "FailPoints"]

AFTER_CLAIM = "after_claim"  # the job is leased to this worker, nothing is done yet
BEFORE_UPLOAD = "before_upload"  # the output is made and encoded, nothing of it is stored
AFTER_UPLOAD = "after_upload"  # all artifacts are stored, the store does not know it
AFTER_COMMIT = "after_commit"  # the job has ended, this worker has not counted or logged it
BEFORE_SNAPSHOT = "before_snapshot"  # a snapshot is made, not stored
POINTS = (AFTER_CLAIM, BEFORE_UPLOAD, AFTER_UPLOAD, AFTER_COMMIT, BEFORE_SNAPSHOT)


class FailPoints(Hook):
    """At most one point is armed. `setting`: empty, `name`, or `name:pass`; thread-safe."""

    def __init__(self, setting: str = "") -> None:
        if setting and not re.fullmatch(rf"({'|'.join(POINTS)})(:[1-9][0-9]*)?", setting):
            raise ValueError(f"no such fail-point: {setting}")
        self._armed, _, number = setting.partition(":")
        self._left = int(number or 1)
        self._lock = threading.Lock()

    def passing(self, point: str) -> None:
        """The run is at `point`; does not return where this is the pass to die at."""
        if point != self._armed:
            return
        with self._lock:
            self._left -= 1
            if self._left:
                return
        print(f"failpoint {point}: killed", file=sys.stderr, flush=True)  # noqa: T201  the log's own line might be lost
        os.kill(os.getpid(), signal.SIGKILL)

    def before_run(self, _context: JobContext) -> None:
        """AFTER_CLAIM."""
        self.passing(AFTER_CLAIM)

    def before_store(self, _context: JobContext) -> None:
        """BEFORE_UPLOAD."""
        self.passing(BEFORE_UPLOAD)

    def after_store(self, _context: JobContext) -> None:
        """AFTER_UPLOAD."""
        self.passing(AFTER_UPLOAD)

    def after_run(self, _context: JobContext, ended: Ended) -> None:
        """AFTER_COMMIT, where the run ended in one."""
        if ended.outcome in {"succeeded", "cancelled"}:
            self.passing(AFTER_COMMIT)
