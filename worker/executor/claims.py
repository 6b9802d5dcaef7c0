"""Getting the next job: when this worker may ask, and what it holds once it has one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from shared.store.jobs import STANDBY, JobStore
from worker.executor.claim_gate import ClaimGate
from worker.run.active import ActiveRuns
from worker.run.context import EngineEvents, JobContext

__all__ = ["ClaimTerms", "Claims"]


@dataclass(frozen=True)
class ClaimTerms:
    """As whom, and for how long."""

    pool: str
    worker: str
    lease_s: float
    standby_s: float  # how long one that stands by for a job that must run alone asks nothing


class Claims:
    """Thread-safe."""

    def __init__(
        self, store: JobStore, runs: ActiveRuns, gate: ClaimGate, terms: ClaimTerms, is_draining: Callable[[], bool]
    ) -> None:
        self._store = store
        self._runs = runs
        self._gate = gate
        self._terms = terms
        self._is_draining = is_draining

    def next(self, events: EngineEvents) -> JobContext | None:
        """The next job, leased to us and among the runs; waits where a job runs alone here, or is to. None where there
        is none, or the worker drains. Raises StoreUnavailable."""
        while True:
            if not self._gate.wait():
                return None  # whoever reaps next sees a job without a doorbell, and rings
            with self._runs.claiming() as is_idle:
                if self._is_draining():
                    return None
                if not self._gate.is_open:
                    continue
                asked_at = time.monotonic()
                claim = self._store.claim(self._terms.pool, self._terms.worker, is_idle=is_idle)
                if claim is None:
                    return None
                if claim != STANDBY:
                    context = JobContext(claim, claimed_at=asked_at, lease_s=self._terms.lease_s, events=events)
                    self._runs.open(context)
                    return context
                self._runs.stand_by(self._terms.standby_s)

    def close(self, context: JobContext) -> None:
        """The run is over; the next one may be asked for."""
        self._runs.close(context)
