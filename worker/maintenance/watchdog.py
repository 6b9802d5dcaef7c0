"""Ends a process whose engine hangs: a thread in a device call cannot be stopped from outside, a process can.

The job that holds the device loses its lease at once, which counts as a lost worker: hanging again, it runs alone
and fails at last. Its siblings go back to the queue without a penalty. A supervisor starts the process again.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from collections.abc import Callable

from shared.logs import get_logger
from shared.store.jobs import JobStore
from worker.engines.scheduling.device_lock import DeviceLock
from worker.run.active import ActiveRuns
from worker.run.context import JobContext
from worker.threads import PeriodicThread

__all__ = ["EXIT_CODE", "Watchdog"]

log = get_logger(__name__)

EXIT_CODE = 70  # EX_SOFTWARE
FIRST_STEP_FACTOR = 5  # for each stage's first step: kernels are compiled and tuned with it
LOOKS = 4  # per timeout
CLAIM_S = 3.0  # for claims under way, so that what they bring is given back too


class Watchdog:
    """One thread. `end` tells the world and never returns; from `shut` on nothing is claimed.

    A call that hangs with the interpreter's lock held stops this thread too: then faulthandler's C timer ends it all,
    with 1. It cannot tell a hang from a process that stood still, so it is armed only while jobs run, for longer than
    a lease: whoever it meets has lost its jobs already.
    """

    def __init__(
        self,
        runs: ActiveRuns,
        device_lock: DeviceLock,
        store: JobStore,
        *,
        step_timeout_s: float,
        lease_s: float,
        shut: Callable[[], None],
        end: Callable[[int], None],
    ) -> None:
        self._runs = runs
        self._device_lock = device_lock
        self._store = store
        self._timeout_s = timeout_s = step_timeout_s
        self._blind_s = max(2 * FIRST_STEP_FACTOR * timeout_s, 2 * lease_s)
        self._shut = shut
        self._end = end
        self._looked_at = self._awake_since = time.monotonic()
        self.thread = PeriodicThread("watchdog", max(0.05, min(1.0, timeout_s / LOOKS)), self._watch)

    def stop(self) -> None:
        """The process may take as long as it likes to end."""
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        if not self._timeout_s:
            return
        self.look()
        if len(self._runs):
            faulthandler.dump_traceback_later(self._blind_s, exit=True)
        else:
            faulthandler.cancel_dump_traceback_later()

    def look(self) -> None:
        """One round."""
        now = time.monotonic()
        if now - self._looked_at > self._timeout_s:
            self._awake_since = now  # the whole process stood still; nobody is to blame
        self._looked_at = now
        running = self._runs.all()
        hung = [context for context in running if self._hangs(context, now)]
        if hung:
            self._bury(hung)

    def _hangs(self, context: JobContext, now: float) -> bool:
        if not context.is_in_engine or self._device_lock.is_waiting(context.thread):
            return False
        moved_at = max(context.moved_at, self._device_lock.moved_at(context.thread), self._awake_since)
        factor = 1 if context.is_amid_a_stage else FIRST_STEP_FACTOR
        return now - moved_at > factor * self._timeout_s

    def _bury(self, hung: list[JobContext]) -> None:
        """Siblings go back, the hung are given up for lost, the process ends."""
        self._shut()
        self._runs.wait_until_claimed(CLAIM_S)
        siblings = [context for context in self._runs.all() if context not in hung]
        log.critical("engine hangs; this process ends", jobs=[context.claim.id for context in hung],
                     kinds=[context.claim.kind for context in hung], given_back=len(siblings))  # fmt: skip
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        for context in (*siblings, *hung):
            self._runs.close(context)  # no beat renews it after this
        for context in siblings:
            _tried(lambda context=context: self._store.release(context.claim))  # type: ignore[misc]
        for context in hung:
            _tried(lambda context=context: self._store.abandon(context.claim))  # type: ignore[misc]
        self._end(EXIT_CODE)
        os._exit(EXIT_CODE)


def _tried(write: Callable[[], object]) -> None:
    try:
        write()
    except Exception as error:
        log.warning("not told; the lease will run out", error=str(error))
