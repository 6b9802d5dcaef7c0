"""Telling the store how a run ended, once, also across an outage of the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shared.errors import Draining, DreamqueueError, Expired, LeaseLost, NotFound, StoreUnavailable, Unavailable
from shared.records.job import Claim, JobState, NewJob
from shared.store.jobs import JobStore
from worker.run.context import JobContext
from worker.run.retry import backoff_s

__all__ = ["Outcome", "finish"]

PATIENCE_S = 60.0  # beyond the lease: nobody else could have claimed the job while the store was away


@dataclass(frozen=True)
class Outcome:
    """What to tell. Exactly one of the four ways of ending a run."""

    kind: str  # commit, fail, release, discard
    state: JobState = JobState.SUCCEEDED  # of a commit
    result: dict[str, Any] | None = None
    error: DreamqueueError | None = None
    delay_s: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)
    follow_up: NewJob | None = None  # of a commit: the job that follows from this one


def finish(store: JobStore, context: JobContext, outcome: Outcome) -> str:
    """The outcome: a job state, `lost` when another attempt owns the job, `unsettled` when the store stayed away."""
    if outcome.kind == "discard":
        return "lost"
    write = _writer(store, context.claim, outcome)
    give_up_at = context.lease_until + PATIENCE_S
    tries = 0
    while True:
        try:
            return str(write().value)
        except LeaseLost:
            return _own_earlier_try(store, context.claim) if tries else "lost"
        except StoreUnavailable:
            tries += 1
            if time.monotonic() > give_up_at or context.is_stopped_by(Draining):
                return "unsettled"
            context.wait(backoff_s(tries, base_s=0.1, cap_s=1.0))


def _writer(store: JobStore, claim: Claim, outcome: Outcome) -> Callable[[], JobState]:
    if outcome.kind == "commit":
        result = outcome.result or {}
        return lambda: store.commit(claim, result, outcome.timings, state=outcome.state, follow_up=outcome.follow_up)
    if outcome.kind == "release":
        why = outcome.error.to_json() if isinstance(outcome.error, Unavailable) else None
        return lambda: store.release(claim, delay_s=outcome.delay_s, error=why)
    assert outcome.error is not None
    error = outcome.error.to_json()
    return lambda: store.fail(claim, error, delay_s=outcome.delay_s, result=outcome.result, timings=outcome.timings)


def _own_earlier_try(store: JobStore, claim: Claim) -> str:
    """An unanswered write may have landed: then the record of this very attempt has moved on, and that was us."""
    try:
        record = store.get(claim.tenant, claim.id)
    except (NotFound, Expired, StoreUnavailable):
        return "lost"
    if record.attempt != claim.attempt or record.state is JobState.RUNNING or not record.attempts:
        return "lost"
    return "lost" if record.attempts[-1].outcome == "lost" else record.state.value
