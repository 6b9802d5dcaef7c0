"""Telling the store how a run ended, once, also across an outage of the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shared.errors import Draining, DreamqueueError, Expired, LeaseLost, NotFound, StoreUnavailable, Unavailable
from shared.records.job import Claim, JobState, NewJob
from shared.store.jobs import JobStore
from worker.run.context import JobMonitor
from worker.run.retry import jittered

__all__ = ["Settlement", "settle"]

PATIENCE_S = 60.0  # beyond the lease: nobody else could have claimed the job while the store was away


@dataclass(frozen=True)
class Settlement:
    """What to tell. Exactly one of the four ways of ending a run."""

    kind: str  # commit, fail, release, discard
    state: JobState = JobState.SUCCEEDED  # of a commit
    result: dict[str, Any] | None = None
    error: DreamqueueError | None = None
    delay_s: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)
    follow_up: NewJob | None = None  # of a commit: the job that follows from this one


def settle(store: JobStore, monitor: JobMonitor, settlement: Settlement) -> str:
    """The outcome: a job state, `lost` when another attempt owns the job, `unsettled` when the store stayed away."""
    if settlement.kind == "discard":
        return "lost"
    write = _writer(store, monitor.claim, settlement)
    give_up_at = monitor.lease_until + PATIENCE_S
    tries = 0
    while True:
        try:
            return str(write().value)
        except LeaseLost:
            return _own_earlier_try(store, monitor.claim) if tries else "lost"
        except StoreUnavailable:
            tries += 1
            if time.monotonic() > give_up_at or monitor.is_stopped_by(Draining):
                return "unsettled"
            monitor.wait(jittered(tries, base_s=0.1, cap_s=1.0))


def _writer(store: JobStore, claim: Claim, settlement: Settlement) -> Callable[[], JobState]:
    if settlement.kind == "commit":
        result = settlement.result or {}
        return lambda: store.commit(
            claim, result, settlement.timings, state=settlement.state, follow_up=settlement.follow_up
        )
    if settlement.kind == "release":
        why = settlement.error.to_json() if isinstance(settlement.error, Unavailable) else None
        return lambda: store.release(claim, delay_s=settlement.delay_s, error=why)
    assert settlement.error is not None
    error = settlement.error.to_json()
    return lambda: store.fail(
        claim, error, delay_s=settlement.delay_s, result=settlement.result, timings=settlement.timings
    )


def _own_earlier_try(store: JobStore, claim: Claim) -> str:
    """An unanswered write may have landed: then the record of this very attempt has moved on, and that was us."""
    try:
        record = store.get(claim.tenant, claim.id)
    except (NotFound, Expired, StoreUnavailable):
        return "lost"
    if record.attempt != claim.attempt or record.state is JobState.RUNNING or not record.attempts:
        return "lost"
    return "lost" if record.attempts[-1].outcome == "lost" else record.state.value
