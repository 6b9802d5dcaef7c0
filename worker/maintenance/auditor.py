"""Recounts the store, from one worker of all. What is wrong is counted, logged and, where safe, mended."""

from __future__ import annotations

import time

from shared.logs import get_logger
from shared.metrics import INVARIANT_VIOLATIONS
from shared.settings import Settings
from shared.store.audit import INVARIANTS, Audit, Violation
from shared.store.jobs import JobStore
from worker.threads import PeriodicThread

__all__ = ["Auditor"]

log = get_logger(__name__)

REST = 10  # times as long as a batch took does the auditor wait after it: a tenth of Redis' time at most is its
LONGEST_REST_S = 0.2


class Auditor:
    """One thread. Workers agree by a key with a short life on who of them audits."""

    def __init__(self, store: JobStore, settings: Settings) -> None:
        self._store = store
        self._audit = Audit(store.redis, settings)
        self._name = settings.worker_name
        self._period_s = settings.audit_period_s
        for invariant in INVARIANTS:
            INVARIANT_VIOLATIONS.labels(invariant)  # shows as 0 until it is not
        self.thread = PeriodicThread("auditor", settings.audit_period_s, self.audit)

    def audit(self) -> None:
        """One round, if it is ours to make."""
        if not self._keep():
            return
        in_hand: dict[str, int] = {}
        for worker in self._store.fleet.workers():
            in_hand[worker.pool] = in_hand.get(worker.pool, 0) + worker.slots
        started_at = kept_at = time.monotonic()
        for violations in self._audit.sweep(in_hand):
            took_s = time.monotonic() - started_at
            for violation in violations:
                self._tell(violation)
            if not self.thread.pause(min(REST * took_s, LONGEST_REST_S)):
                return
            started_at = time.monotonic()
            if started_at - kept_at > self._period_s / 2:
                kept_at = started_at
                if not self._keep():
                    return

    def _keep(self) -> bool:
        return self._audit.is_ours(self._name, 1.5 * self._period_s)

    def _tell(self, violation: Violation) -> None:
        INVARIANT_VIOLATIONS.labels(violation.invariant).inc()
        what, repair = INVARIANTS[violation.invariant]
        log.error(
            "invariant violated", invariant=violation.invariant, subject=violation.subject, what=what,
            repaired=repair if violation.is_repaired else None,
        )  # fmt: skip
