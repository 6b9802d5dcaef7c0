"""Run one job: claim, fetch its pictures, engine, encode, upload, finish. Every error ends here, as what it means."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError
from structlog.contextvars import bound_contextvars

from shared.errors import (
    Cancelled,
    DeadlineExceeded,
    Draining,
    DreamqueueError,
    EngineError,
    Internal,
    InvalidInput,
    LeaseLost,
    ModelUnavailable,
    ObjectStoreUnavailable,
    OutOfMemory,
    Stopped,
    StoreUnavailable,
    Unavailable,
    VectorsUnavailable,
    Yielded,
)
from shared.logs import get_logger
from shared.records.job import FINAL, Claim, JobState, NewJob
from shared.settings import Settings
from shared.specs.clip import GENERATED, IndexSpec
from shared.specs.kinds import image_refs, read_spec
from shared.specs.types import Spec
from shared.store.jobs import STANDBY, JobStore
from worker.engines.base import Engine, Output, StoppedWithOutput, Task
from worker.executor.claim_gate import ClaimGate
from worker.executor.outcome import Outcome, finish
from worker.run.active import ActiveRuns
from worker.run.context import JobContext
from worker.run.failpoints import AFTER_CLAIM, AFTER_COMMIT, AFTER_UPLOAD, BEFORE_UPLOAD, FailPoints
from worker.run.hooks import Ended, Hooks
from worker.run.progress import ProgressWriter
from worker.run.retry import backoff_s
from worker.transfer.encode import EncodedOutput, encode
from worker.transfer.inputs import Inputs
from worker.transfer.previews import Previews
from worker.transfer.snapshots import Snapshots
from worker.transfer.spool import Spool
from worker.transfer.uploads import Uploads

if TYPE_CHECKING:  # numpy, which a worker of probes does without
    from worker.collections.access import CollectionAccess

__all__ = ["Runner", "RunnerParts"]

log = get_logger(__name__)

MAX_OUTAGE_ATTEMPTS = 20  # attempts of one job that the vector index may fail: at 300 s between them, an hour
LEAST_DELAY_S = 0.1  # of a job that a server's outage sends back
KEPT_THROUGH = (Cancelled, Yielded, Draining)  # what is made is not thrown away for these


@dataclass(frozen=True)
class RunnerParts:
    """What a runner works with."""

    store: JobStore
    engines: Mapping[str, Engine]  # by kind
    inputs: Inputs
    uploads: Uploads
    progress: ProgressWriter
    previews: Previews
    snapshots: Snapshots
    hooks: Hooks
    runs: ActiveRuns
    claim_gate: ClaimGate
    spool: Spool
    failpoints: FailPoints
    collections: CollectionAccess | None = None  # where this worker serves collections


class Runner:
    """Thread-safe; each slot's thread calls pull()."""

    def __init__(self, settings: Settings, parts: RunnerParts, is_draining: Callable[[], bool]) -> None:
        self._settings = settings
        self._parts = parts
        self._is_draining = is_draining

    def pull(self) -> bool:
        """Claim the pool's next job and run it to its end; False when there was none to be had. Never raises."""
        try:
            context = self._next()
        except StoreUnavailable as error:
            log.warning("no claim", error=error.message)
            return False
        if context is None:
            return False
        claim = context.claim
        self._parts.failpoints.passing(AFTER_CLAIM)
        with bound_contextvars(
            job_id=claim.id, kind=claim.kind, attempt=claim.attempt, tenant=claim.tenant, request_id=claim.request_id
        ):
            self._run(context)
        return True

    def _next(self) -> JobContext | None:
        """The next job, leased to us and among the runs; waits where a job runs alone here, or is to."""
        while True:
            if not self._parts.claim_gate.wait():
                return None  # whoever reaps next sees a job without a doorbell, and rings
            with self._parts.runs.claiming() as is_idle:
                if self._is_draining():
                    return None
                if not self._parts.claim_gate.is_open:
                    continue
                asked_at = time.monotonic()
                claim = self._parts.store.claim(self._settings.pool, self._settings.worker_name, is_idle=is_idle)
                if claim is None:
                    return None
                if claim != STANDBY:
                    context = self._context(claim, asked_at)
                    self._parts.runs.open(context)
                    return context
                self._parts.runs.stand_by(self._settings.beat_s)

    def _context(self, claim: Claim, asked_at: float) -> JobContext:
        return JobContext(
            claim,
            claimed_at=asked_at,
            lease_s=self._settings.lease_s,
            on_progress=self._parts.progress.note,
            on_preview=self._parts.previews.take,
            on_snapshot=self._parts.snapshots.offered,
        )

    def _run(self, context: JobContext) -> None:
        claim, hooks = context.claim, self._parts.hooks
        started_at = time.monotonic()
        timings = {"queue_s": max(0, claim.claimed_at_ms - claim.queued_at_ms) / 1000}
        code = None
        reached = "unsettled"
        hooks.before(claim)
        try:
            outcome = self._work(context, timings)
            code = outcome.error.code if outcome.error else None
            context.close()
            timings["run_s"] = round(time.monotonic() - started_at, 6)
            reached = finish(self._parts.store, context, outcome)
            if reached in FINAL:
                self._parts.snapshots.discard(context)
            if outcome.kind == "commit":
                self._parts.failpoints.passing(AFTER_COMMIT)
        except Exception:
            log.exception("run could not be finished")  # its lease runs out, and the job is run again
        finally:
            self._parts.spool.finished(claim, reached in FINAL)
            self._parts.runs.close(context)
            hooks.after(claim, Ended(reached, timings, code))

    def _work(self, context: JobContext, timings: dict[str, float]) -> Outcome:
        """Everything up to telling the store; every way a run can end becomes an Outcome."""
        try:
            encoded = self._parts.spool.get(context.claim) or self._make(context, timings)
            context.check(keep_through=KEPT_THROUGH)
            return self._store(encoded, context, timings)
        except StoppedWithOutput as stop:
            return self._keep_partial(stop, context, timings)
        except Stopped as stop:
            return self._stopped(stop, context, timings)
        except VectorsUnavailable as error:  # one that never comes back must not keep jobs for ever
            is_lasting = context.claim.attempt >= MAX_OUTAGE_ATTEMPTS
            return (self._failed if is_lasting else self._release_for_outage)(error, context.claim, timings)
        except Unavailable as error:
            return self._release_for_outage(error, context.claim, timings)
        except DreamqueueError as error:
            return self._failed(error, context.claim, timings)
        except MemoryError:
            return self._failed(OutOfMemory("the worker is out of memory"), context.claim, timings)
        except Exception as error:
            log.exception("run failed")
            return self._failed(Internal(f"internal error: {type(error).__name__}"), context.claim, timings)

    def _make(self, context: JobContext, timings: dict[str, float]) -> EncodedOutput:
        claim = context.claim
        spec = _spec_of(claim)
        engine = self._parts.engines.get(claim.kind)
        if engine is None:
            raise ModelUnavailable(f"no worker of this pool serves {claim.kind!r} jobs")
        refs = image_refs(spec)
        with _timed(timings, "fetch_s", bool(refs)):
            images = self._parts.inputs.fetch(refs, context) if refs else {}
        saved = self._parts.snapshots.fetch(context) if engine.resumes else None
        context.check()
        collections = self._parts.collections.of(context) if self._parts.collections else None
        context.is_in_engine = True
        try:
            output = engine.run(Task(spec, images, claim.failures, saved, _was_too_large(claim), collections), context)
        finally:
            context.is_in_engine = False
            if collections:
                collections.close()
        context.offer = None  # what it holds on the device may go
        encoded = self._encode(output, timings)
        if encoded.artifacts:
            self._parts.spool.put(claim, encoded)
        return encoded

    def _encode(self, output: Output, timings: dict[str, float]) -> EncodedOutput:
        timings.update({name: round(seconds, 6) for name, seconds in output.timings.items()})
        with _timed(timings, "encode_s", bool(output.pictures)):
            return encode(output)

    def _store(
        self,
        encoded: EncodedOutput,
        context: JobContext,
        timings: dict[str, float],
        *,
        state: JobState = JobState.SUCCEEDED,
        keep_through: tuple[type[Stopped], ...] = KEPT_THROUGH,
    ) -> Outcome:
        """Upload everything; the outcome that commits it."""
        self._parts.failpoints.passing(BEFORE_UPLOAD)
        with _timed(timings, "upload_s", bool(encoded.artifacts)):
            stored = self._parts.uploads.put(encoded, context, keep_through)
        self._parts.failpoints.passing(AFTER_UPLOAD)
        follow_up = _collecting(context.claim, self._settings.pool) if encoded.pictures else None
        return Outcome("commit", state=state, result=encoded.result(stored), timings=timings, follow_up=follow_up)

    def _keep_partial(self, stop: StoppedWithOutput, context: JobContext, timings: dict[str, float]) -> Outcome:
        """What was finished before a cancel or the deadline is stored; after a lost lease or a drain it is not ours."""
        if not isinstance(stop.cause, Cancelled | DeadlineExceeded):
            return self._stopped(stop.cause, context, timings)
        try:
            encoded = self._encode(stop.output, timings)
            keep_through = (*KEPT_THROUGH, DeadlineExceeded)
            kept = self._store(encoded, context, timings, state=JobState.CANCELLED, keep_through=keep_through)
        except Stopped as stopped:
            return self._stopped(stopped, context, timings)
        except (DreamqueueError, OSError) as error:
            log.warning("finished pictures of a stopped run could not be stored", error=str(error))
            return self._stopped(stop.cause, context, timings)
        if isinstance(stop.cause, Cancelled):
            return kept
        return Outcome("fail", result=kept.result, error=stop.cause, timings=timings)

    def _stopped(self, stop: Stopped, context: JobContext, timings: dict[str, float]) -> Outcome:
        if isinstance(stop, Cancelled):
            result = encode(Output()).result([])
            return Outcome("commit", state=JobState.CANCELLED, result=result, error=stop, timings=timings)
        if isinstance(stop, DeadlineExceeded):
            return Outcome("fail", error=stop, timings=timings)
        if isinstance(stop, LeaseLost):
            return Outcome("discard", error=stop, timings=timings)
        self._parts.snapshots.save_last(context)
        return Outcome("release", error=stop, timings=timings)

    def _release_for_outage(self, error: Unavailable, claim: Claim, timings: dict[str, float]) -> Outcome:
        """A server was away: no fault of the job, which goes back to its place and waits a little."""
        log.warning("a server is away; the job goes back", error=error.message)
        if isinstance(error, ObjectStoreUnavailable):
            self._parts.claim_gate.pause_until_store_back()
        wait_s = backoff_s(claim.attempt, self._settings.retry_base_s, self._settings.retry_cap_s)
        return Outcome("release", error=error, delay_s=max(LEAST_DELAY_S, wait_s), timings=timings)

    def _failed(self, error: DreamqueueError, claim: Claim, timings: dict[str, float]) -> Outcome:
        if isinstance(error, OutOfMemory) and _was_too_large(claim):
            error.retryable = False  # this was the try with smaller batches
        if not isinstance(error, EngineError | InvalidInput):
            log.warning("run failed", error=error.message)
        delay_s = backoff_s(claim.failures, self._settings.retry_base_s, self._settings.retry_cap_s)
        return Outcome("fail", error=error, delay_s=delay_s, timings=timings)


def _collecting(claim: Claim, pool: str) -> NewJob | None:
    """What puts a job's pictures into its tenant's collection, if the job says so: always the same job."""
    if not claim.spec.get("collect"):
        return None
    spec = IndexSpec(collection=GENERATED, job=claim.id)
    return NewJob(
        id=str(uuid.uuid5(uuid.UUID(claim.id), GENERATED)),
        tenant=claim.tenant,
        kind=spec.kind,
        pool=pool,
        spec=spec.model_dump(mode="json"),
        priority="low",
        metadata={"follows": claim.id},
        request_id=claim.request_id,
    )


def _was_too_large(claim: Claim) -> bool:
    return claim.last_error_code == OutOfMemory.code


def _spec_of(claim: Claim) -> Spec:
    """Validated again: the record may be older than this worker's limits, or newer."""
    try:
        return read_spec(claim.kind, claim.spec)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{field}: {first['msg']}", field=field) from None


@contextmanager
def _timed(timings: dict[str, float], name: str, applies: bool) -> Iterator[None]:
    """Note under `name` what the block takes, if it applies to this run at all."""
    started_at = time.monotonic()
    try:
        yield
    finally:
        if applies:
            timings[name] = round(time.monotonic() - started_at, 6)
