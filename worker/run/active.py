"""The jobs this process holds now, and who of its threads may claim another."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import Cancelled, Draining, Stopped, Yielded
from shared.store import keys
from worker.run.context import JobContext

__all__ = ["ActiveRuns"]

LOOK_AGAIN_S = 0.5  # how late a thread notices that standing by is over without any job having ended


class ActiveRuns:
    """Contexts by job. Once told to give up, it gives up every run, those that come later too.

    A job that must run alone needs a worker that holds nothing else, from its claim to its end. So a claim of an idle
    worker is made by one thread while the others wait; claims beside running jobs are made side by side.
    """

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._contexts: dict[str, JobContext] = {}
        self._gave_up = False
        self._is_shut = False
        self._claiming = 0  # threads between asking for a job and opening it
        self._is_claiming_alone = False  # one of them asks as an idle worker
        self._standby_until = 0.0  # local monotonic time

    # --- claiming ------------------------------------------------------------------------------------------------

    @contextmanager
    def claiming(self) -> Iterator[bool]:
        """Around a claim and open(): whether this worker holds nothing else, which stays so inside the block.

        Waits while a job runs alone, while an idle claim is being made, and while standing by; not after shut().
        """
        with self._lock:
            while not self._lock.wait_for(self._may_claim, LOOK_AGAIN_S):
                pass
            is_idle = not self._contexts and not self._claiming
            self._claiming += 1
            self._is_claiming_alone = is_idle
        try:
            yield is_idle
        finally:
            with self._lock:
                self._claiming -= 1
                if is_idle:
                    self._is_claiming_alone = False
                    self._standby_until = 0.0  # it was idle, which is what it stood by for
                self._lock.notify_all()

    def _may_claim(self) -> bool:
        if self._is_shut:
            return True
        if self._is_claiming_alone or any(context.claim.alone for context in self._contexts.values()):
            return False
        return time.monotonic() >= self._standby_until or not (self._contexts or self._claiming)

    def stand_by(self, seconds: float) -> None:
        """Claim nothing until nothing runs here; at most so long, then ask again."""
        with self._lock:
            self._standby_until = time.monotonic() + seconds

    def shut(self) -> None:
        """The worker takes no more jobs: nobody waits to claim one."""
        with self._lock:
            self._is_shut = True
            self._lock.notify_all()

    def wait_until_claimed(self, timeout_s: float) -> bool:
        """Whether no claim is under way; after shut() none follows that is not refused."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._claiming, timeout_s)

    # --- what runs -----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._contexts)

    def open(self, context: JobContext) -> None:
        """A claim was won."""
        with self._lock:
            self._contexts[_ref(context)] = context
            if self._gave_up:
                context.stop(Draining("the worker stops"))

    def close(self, context: JobContext) -> None:
        """The job is settled, or no longer ours."""
        with self._lock:
            if self._contexts.get(_ref(context)) is context:
                del self._contexts[_ref(context)]
            self._lock.notify_all()

    def all(self) -> list[JobContext]:
        """Those that run now."""
        with self._lock:
            return list(self._contexts.values())

    def cancel(self, ref: str) -> None:
        """The caller wants this job (`tenant:id`) to end; nothing happens if we do not hold it."""
        self._stop(ref, Cancelled("cancelled by the caller"))

    def pause(self, ref: str) -> None:
        """The caller wants this job to stand still; it goes back to the queue, where it is held."""
        self._stop(ref, Yielded("paused by the caller"))

    def _stop(self, ref: str, cause: Stopped) -> None:
        with self._lock:
            context = self._contexts.get(ref)
        if context:
            context.stop(cause)

    def give_up(self) -> None:
        """Stop every run at its next step; their jobs go back to the queue."""
        with self._lock:
            self._gave_up = True
            for context in self._contexts.values():
                context.stop(Draining("the worker stops"))

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Whether nothing runs any more."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._contexts, timeout_s)


def _ref(context: JobContext) -> str:
    return keys.ref(context.claim.tenant, context.claim.id)
