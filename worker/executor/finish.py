"""Telling the store how a run ended, once, also across an outage of the store."""

from __future__ import annotations

import time
from typing import TypeAlias, assert_never

from shared.errors import Draining, Expired, LeaseLost, NotFound, StoreUnavailable, Unavailable
from shared.records.job import Claim, JobState
from shared.store.jobs import JobStore
from worker.executor.outcome import Committed, Discarded, Failed, Outcome, Released
from worker.run.context import JobContext
from worker.run.retry import backoff_s

__all__ = ["LOST", "UNSETTLED", "finish"]

PATIENCE_S = 60.0  # beyond the lease: nobody else could have claimed the job while the store was away
LOST = "lost"  # another attempt owns the job
UNSETTLED = "unsettled"  # the store stayed away; the job's lease runs out, and it is run again

_Told: TypeAlias = Committed | Failed | Released


def finish(store: JobStore, context: JobContext, outcome: Outcome) -> str:
    """What the job reached by it: a job state, LOST, or UNSETTLED."""
    if isinstance(outcome, Discarded):
        return LOST
    timings = context.timings.as_dict()
    give_up_at = context.stop_signal.lease_until + PATIENCE_S
    tries = 0
    while True:
        try:
            return str(_tell(store, context.claim, outcome, timings).value)
        except LeaseLost:
            return _own_earlier_try(store, context.claim) if tries else LOST
        except StoreUnavailable:
            tries += 1
            if time.monotonic() > give_up_at or context.stop_signal.is_set_by(Draining):
                return UNSETTLED
            context.stop_signal.wait(backoff_s(tries, base_s=0.1, cap_s=1.0))


def _tell(store: JobStore, claim: Claim, outcome: _Told, timings: dict[str, float]) -> JobState:
    match outcome:
        case Committed(state, result, follow_up):
            return store.commit(claim, result, timings, state=state, follow_up=follow_up)
        case Failed(error, runs_again, delay_s, result):
            told = {**error.to_json(), "retryable": runs_again}
            return store.fail(claim, told, delay_s=delay_s, result=result, timings=timings)
        case Released(cause, delay_s):
            reason = cause.to_json() if isinstance(cause, Unavailable) else None
            return store.release(claim, delay_s=delay_s, error=reason)
        case _:
            assert_never(outcome)


def _own_earlier_try(store: JobStore, claim: Claim) -> str:
    """An unanswered write may have landed: then the record of this very attempt has moved on, and that was us."""
    try:
        record = store.get(claim.tenant, claim.id)
    except (NotFound, Expired, StoreUnavailable):
        return LOST
    if record.attempt != claim.attempt or record.state is JobState.RUNNING or not record.attempts:
        return LOST
    return LOST if record.attempts[-1].outcome == "lost" else record.state.value
