"""How a run can end, as four values, and which error means which: one table.

An error is never changed: whether the job runs again is said by the outcome, beside the error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from shared import errors
from shared.errors import DreamqueueError, OutOfMemory
from shared.records.job import Claim, JobState, NewJob
from worker.engines.base import Output
from worker.run.retry import Backoff
from worker.transfer.encode import encode

__all__ = ["OUTCOMES", "Committed", "Discarded", "Failed", "Outcome", "Released", "outcome_of", "was_too_large"]

MAX_OUTAGE_ATTEMPTS = 20  # attempts of one job that the vector index may fail: at 300 s between them, an hour
LEAST_DELAY_S = 0.1  # of a job that a server's outage sends back


@dataclass(frozen=True)
class Committed:
    """The job ends with a result: succeeded, or cancelled with what was finished."""

    state: JobState
    result: dict[str, Any]
    follow_up: NewJob | None  # the job that follows from this one

    @property
    def code(self) -> str | None:
        """Of the error, if there was one."""
        return errors.Cancelled.code if self.state is JobState.CANCELLED else None


@dataclass(frozen=True)
class Failed:
    """The attempt ends in an error. Where it `runs_again`, the job does after `delay_s`, unless it failed too often."""

    error: DreamqueueError
    runs_again: bool
    delay_s: float
    result: dict[str, Any] | None = None  # what was finished before

    @property
    def code(self) -> str:
        """Of the error."""
        return self.error.code


@dataclass(frozen=True)
class Released:
    """The job goes back to the queue, without a penalty, to run again after `delay_s`."""

    cause: DreamqueueError
    delay_s: float

    @property
    def code(self) -> str:
        """Of the cause."""
        return self.cause.code


@dataclass(frozen=True)
class Discarded:
    """Another attempt owns the job: there is nothing to tell."""

    cause: DreamqueueError

    @property
    def code(self) -> str:
        """Of the cause."""
        return self.cause.code


Outcome: TypeAlias = Committed | Failed | Released | Discarded
Rule: TypeAlias = Callable[[DreamqueueError, Claim, Backoff], Outcome]


def was_too_large(claim: Claim) -> bool:
    """Whether the last attempt that failed found the device full; this one is the try with smaller batches."""
    return claim.last_error_code == OutOfMemory.code


def _fails(error: DreamqueueError, claim: Claim, backoff: Backoff) -> Outcome:
    return Failed(error, error.retryable, backoff.wait_s(claim.failures))


def _fails_the_second_time(error: DreamqueueError, claim: Claim, backoff: Backoff) -> Outcome:
    return Failed(error, error.retryable and not was_too_large(claim), backoff.wait_s(claim.failures))


def _waits_for_the_server(error: DreamqueueError, claim: Claim, backoff: Backoff) -> Outcome:
    """No fault of the job, which goes back to its place and waits a little."""
    return Released(error, max(LEAST_DELAY_S, backoff.wait_s(claim.attempt)))


def _waits_a_while(error: DreamqueueError, claim: Claim, backoff: Backoff) -> Outcome:
    """A server that never comes back must not keep jobs for ever."""
    is_lasting = claim.attempt >= MAX_OUTAGE_ATTEMPTS
    return (_fails if is_lasting else _waits_for_the_server)(error, claim, backoff)


def _goes_back(error: DreamqueueError, _claim: Claim, _backoff: Backoff) -> Outcome:
    return Released(error, 0.0)


def _ends_cancelled(_error: DreamqueueError, _claim: Claim, _backoff: Backoff) -> Outcome:
    return Committed(JobState.CANCELLED, encode(Output()).result([]), None)


def _is_not_ours(error: DreamqueueError, _claim: Claim, _backoff: Backoff) -> Outcome:
    return Discarded(error)


# Every class of shared.errors; a class that is not here, an engine's own, ends a run as its nearest ancestor does.
OUTCOMES: dict[type[DreamqueueError], Rule] = {
    errors.Cancelled: _ends_cancelled,
    errors.DeadlineExceeded: _fails,
    errors.LeaseLost: _is_not_ours,
    errors.Draining: _goes_back,
    errors.Yielded: _goes_back,
    errors.Stopped: _goes_back,
    errors.StoreUnavailable: _waits_for_the_server,
    errors.ObjectStoreUnavailable: _waits_for_the_server,
    errors.VectorsUnavailable: _waits_a_while,
    errors.Unavailable: _waits_for_the_server,
    errors.OutOfMemory: _fails_the_second_time,
    # An engine's errors, and those of a spec that this worker reads otherwise than the API did.
    errors.EngineError: _fails,
    errors.ModelUnavailable: _fails,
    errors.UnreadableImage: _fails,
    errors.VectorsUnfit: _fails,
    errors.NonFinite: _fails,
    errors.ProbeFailed: _fails,
    errors.InvalidInput: _fails,
    # What a job names may be gone by now, or have been changed by another job.
    errors.NotFound: _fails,
    errors.Expired: _fails,
    errors.Conflict: _fails,
    errors.CollectionMoved: _fails,
    # Not raised by a run on purpose; a fault of ours if one is.
    errors.Unauthorized: _fails,
    errors.Forbidden: _fails,
    errors.NotCancellable: _fails,
    errors.QueueFull: _fails,
    errors.WorkerLost: _fails,
    errors.UnreadableRecord: _fails,
    errors.Internal: _fails,
    errors.DreamqueueError: _fails,
}


def outcome_of(error: DreamqueueError, claim: Claim, backoff: Backoff) -> Outcome:
    """What becomes of a run that raised this."""
    rule = next(OUTCOMES[kind] for kind in type(error).__mro__ if kind in OUTCOMES)
    return rule(error, claim, backoff)
