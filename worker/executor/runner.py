"""Run one job: claim it, make its output, store that, tell the store how it ended. Every error ends here.

The loop knows no features: what else happens around a run hangs on hooks (worker/run/hooks.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from structlog.contextvars import bound_contextvars

from shared.errors import (
    Cancelled,
    DeadlineExceeded,
    Draining,
    DreamqueueError,
    EngineError,
    Internal,
    InvalidInput,
    OutOfMemory,
    Stopped,
    StoreUnavailable,
    Yielded,
)
from shared.logs import get_logger
from shared.records.job import JobState
from shared.store.jobs import JobStore
from worker.engines.base import StoppedWithOutput
from worker.executor.claims import Claims
from worker.executor.finish import UNSETTLED, finish
from worker.executor.follow_up import follow_up_of
from worker.executor.outcome import Committed, Failed, Outcome, Released, outcome_of
from worker.executor.output_maker import OutputMaker
from worker.run.context import JobContext
from worker.run.hooks import Ended, Hooks
from worker.run.retry import Backoff
from worker.transfer.encode import EncodedOutput
from worker.transfer.uploads import Uploads

__all__ = ["KEPT_THROUGH", "Runner", "RunnerParts"]

log = get_logger(__name__)

KEPT_THROUGH = (Cancelled, Yielded, Draining)  # what is made is not thrown away for these


@dataclass(frozen=True)
class RunnerParts:
    """What a runner works with, in the order of a run."""

    claims: Claims
    maker: OutputMaker
    uploads: Uploads
    store: JobStore
    hooks: Hooks


class Runner:
    """Thread-safe; each slot's thread calls pull()."""

    def __init__(self, parts: RunnerParts, *, pool: str, backoff: Backoff) -> None:
        self._claims = parts.claims
        self._maker = parts.maker
        self._uploads = parts.uploads
        self._store = parts.store
        self._hooks = parts.hooks
        self._pool = pool
        self._backoff = backoff

    def pull(self) -> bool:
        """Claim the pool's next job and run it to its end; False when there was none to be had. Never raises."""
        try:
            context = self._claims.next(self._hooks)
        except StoreUnavailable as error:
            log.warning("no claim", error=error.message)
            return False
        if context is None:
            return False
        claim = context.claim
        with bound_contextvars(
            job_id=claim.id, kind=claim.kind, attempt=claim.attempt, tenant=claim.tenant, request_id=claim.request_id
        ):
            self._run(context)
        return True

    def _run(self, context: JobContext) -> None:
        reached, code = UNSETTLED, None
        self._hooks.before_run(context)
        try:
            outcome = self._outcome(context)
            code = outcome.code
            context.close()
            context.timings.ended()
            reached = finish(self._store, context, outcome)
        except Exception:
            log.exception("run could not be finished")  # its lease runs out, and the job is run again
        finally:
            self._hooks.after_run(context, Ended(reached, context.timings.as_dict(), code))
            self._claims.close(context)

    def _outcome(self, context: JobContext) -> Outcome:
        """Everything up to telling the store."""
        try:
            encoded = self._maker.output_of(context)
            context.check(keep_through=KEPT_THROUGH)
            result = self._stored(encoded, context, KEPT_THROUGH)
            follow_up = follow_up_of(context.claim, self._pool) if encoded.pictures else None
            return Committed(JobState.SUCCEEDED, result, follow_up)
        except StoppedWithOutput as stop:
            return self._partial(stop, context)
        except Exception as error:
            return self._ended_by(_named(error), context)

    def _stored(
        self, encoded: EncodedOutput, context: JobContext, keep_through: tuple[type[Stopped], ...]
    ) -> dict[str, Any]:
        """Upload everything; the result that names it."""
        self._hooks.before_store(context)
        with context.timings.stage("upload_s", applies=bool(encoded.artifacts)):
            stored = self._uploads.put(encoded, context, keep_through)
        self._hooks.after_store(context)
        return encoded.result(stored)

    def _partial(self, stop: StoppedWithOutput, context: JobContext) -> Outcome:
        """What was finished before a cancel or the deadline is stored; after a lost lease or a drain it is not ours."""
        cause = stop.cause
        if not isinstance(cause, Cancelled | DeadlineExceeded):
            return self._ended_by(cause, context)
        try:
            encoded = self._maker.encoded(stop.output, context)
            result = self._stored(encoded, context, (*KEPT_THROUGH, DeadlineExceeded))
        except Stopped as stopped:
            return self._ended_by(stopped, context)
        except (DreamqueueError, OSError) as error:
            log.warning("finished pictures of a stopped run could not be stored", error=str(error))
            return self._ended_by(cause, context)
        if isinstance(cause, Cancelled):
            return Committed(JobState.CANCELLED, result, None)
        return Failed(cause, runs_again=False, delay_s=0.0, result=result)

    def _ended_by(self, error: DreamqueueError, context: JobContext) -> Outcome:
        outcome = outcome_of(error, context.claim, self._backoff)
        if isinstance(outcome, Released):
            self._hooks.before_release(context, outcome.cause)
        elif isinstance(outcome, Failed) and not isinstance(error, EngineError | InvalidInput | DeadlineExceeded):
            log.warning("run failed", error=error.message)
        return outcome


def _named(error: Exception) -> DreamqueueError:
    """Ours as it is, any other as the one of ours that it means."""
    if isinstance(error, DreamqueueError):
        return error
    if isinstance(error, MemoryError):
        return OutOfMemory("the worker is out of memory")
    log.error("run failed", exc_info=error)
    return Internal(f"internal error: {type(error).__name__}")
