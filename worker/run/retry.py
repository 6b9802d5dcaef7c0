"""Trying again when a server is away, without a herd and without outstaying the job's lease."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from shared.errors import Cancelled, Draining, ObjectStoreUnavailable, Stopped
from worker.run.context import JobContext

__all__ = ["Backoff", "backoff_s", "retry_while_away"]

T = TypeVar("T")

BASE_S = 0.5
CAP_S = 10.0
DRAIN_S = 4.0  # for what is made already, when a worker that stops has no grace left


def backoff_s(tries: int, base_s: float = BASE_S, cap_s: float = CAP_S) -> float:
    """Seconds to wait after so many failures: full jitter under min(cap, base * 2**tries)."""
    return random.uniform(0, min(cap_s, base_s * 2 ** min(tries, 30)))


@dataclass(frozen=True)
class Backoff:
    """How jobs that go back wait: as backoff_s says, within these bounds in seconds."""

    base_s: float
    cap_s: float

    def wait_s(self, tries: int) -> float:
        """After so many failures."""
        return backoff_s(tries, self.base_s, self.cap_s)


def retry_while_away(
    call: Callable[[], T],
    context: JobContext,
    patience_s: float,
    *,
    keep_through: tuple[type[Stopped], ...] = (Cancelled,),
    on_retry: Callable[[], None] | None = None,
) -> T:
    """`call` until the object store answers, for `patience_s`; what stops the run ends it, too, unless it is in
    `keep_through`.

    A cancel does not by default: what the run made is kept. Where draining does not either, it leaves DRAIN_S.
    """
    failed = 0
    give_up_at = time.monotonic() + patience_s
    while True:
        context.check(keep_through=keep_through)
        try:
            return call()
        except ObjectStoreUnavailable:
            wait_s = backoff_s(failed)
            if context.stop_signal.is_set_by(Draining):
                give_up_at = min(give_up_at, context.stop_signal.set_at + DRAIN_S)
            if time.monotonic() + wait_s > give_up_at:
                raise
            failed += 1
            if on_retry:
                on_retry()
            context.stop_signal.wait(wait_s)
