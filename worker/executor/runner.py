"""Run one job: claim, fetch its pictures, engine, encode, upload, settle. Every error ends here, as what it means."""

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
from shared.specs.kinds import Spec, image_refs, read_spec
from shared.store.jobs import STANDBY, JobStore
from worker.engines.base import Engine, Output, StoppedWithOutput, Task
from worker.executor.claim_gate import Intake
from worker.executor.outcome import Settlement, settle
from worker.run.active import Runs
from worker.run.context import JobMonitor
from worker.run.failpoints import AFTER_CLAIM, AFTER_COMMIT, AFTER_UPLOAD, BEFORE_UPLOAD, FailPoints
from worker.run.hooks import Ended, Hooks
from worker.run.progress import Reports
from worker.run.retry import jittered
from worker.transfer.encode import Rendered, render
from worker.transfer.inputs import Inputs
from worker.transfer.previews import Previews
from worker.transfer.snapshots import Snapshots
from worker.transfer.spool import Spool
from worker.transfer.uploads import Uploads

if TYPE_CHECKING:  # numpy, which a worker of probes does without
    from worker.collections.access import Shelves

__all__ = ["Runner", "RunnerParts"]

log = get_logger(__name__)

MOST_HINDRANCES = 20  # attempts of one job that the vector index may hinder: at 300 s between them, an hour
LEAST_DELAY_S = 0.1  # of a job that a server's outage sends back
KEPT_THROUGH = (Cancelled, Yielded, Draining)  # what is made is not thrown away for these


@dataclass(frozen=True)
class RunnerParts:
    """What a runner works with."""

    store: JobStore
    engines: Mapping[str, Engine]  # by kind
    inputs: Inputs
    uploads: Uploads
    reports: Reports
    previews: Previews
    snapshots: Snapshots
    hooks: Hooks
    runs: Runs
    intake: Intake
    spool: Spool
    failpoints: FailPoints
    shelves: Shelves | None = None  # where this worker serves collections


class Runner:
    """Thread-safe; each slot's thread calls pull()."""

    def __init__(self, settings: Settings, parts: RunnerParts, is_draining: Callable[[], bool]) -> None:
        self._settings = settings
        self._parts = parts
        self._is_draining = is_draining

    def pull(self) -> bool:
        """Claim the pool's next job and run it to its end; False when there was none to be had. Never raises."""
        try:
            monitor = self._next()
        except StoreUnavailable as error:
            log.warning("no claim", error=error.message)
            return False
        if monitor is None:
            return False
        claim = monitor.claim
        self._parts.failpoints.passing(AFTER_CLAIM)
        with bound_contextvars(job_id=claim.id, kind=claim.kind, attempt=claim.attempt, tenant=claim.tenant):
            self._run(monitor)
        return True

    def _next(self) -> JobMonitor | None:
        """The next job, leased to us and among the runs; waits where a job runs alone here, or is to."""
        while True:
            if not self._parts.intake.wait():
                return None  # whoever reaps next sees a job without a doorbell, and rings
            with self._parts.runs.claiming() as is_idle:
                if self._is_draining():
                    return None
                if not self._parts.intake.is_open:
                    continue
                asked_at = time.monotonic()
                claim = self._parts.store.claim(self._settings.pool, self._settings.worker_name, is_idle=is_idle)
                if claim is None:
                    return None
                if claim != STANDBY:
                    monitor = self._monitor(claim, asked_at)
                    self._parts.runs.open(monitor)
                    return monitor
                self._parts.runs.stand_by(self._settings.beat_s)

    def _monitor(self, claim: Claim, asked_at: float) -> JobMonitor:
        return JobMonitor(
            claim,
            claimed_at=asked_at,
            lease_s=self._settings.lease_s,
            on_progress=self._parts.reports.note,
            on_preview=self._parts.previews.take,
            on_snapshot=self._parts.snapshots.offered,
        )

    def _run(self, monitor: JobMonitor) -> None:
        claim, hooks = monitor.claim, self._parts.hooks
        started_at = time.monotonic()
        timings = {"queue_s": max(0, claim.claimed_at_ms - claim.queued_at_ms) / 1000}
        code = None
        outcome = "unsettled"
        hooks.before(claim)
        try:
            settlement = self._work(monitor, timings)
            code = settlement.error.code if settlement.error else None
            monitor.close()
            timings["run_s"] = round(time.monotonic() - started_at, 6)
            outcome = settle(self._parts.store, monitor, settlement)
            if outcome in FINAL:
                self._parts.snapshots.discard(monitor)
            if settlement.kind == "commit":
                self._parts.failpoints.passing(AFTER_COMMIT)
        except Exception:
            log.exception("run could not be settled")  # its lease runs out, and the job is run again
        finally:
            self._parts.spool.settled(claim, outcome in FINAL)
            self._parts.runs.close(monitor)
            hooks.after(claim, Ended(outcome, timings, code))

    def _work(self, monitor: JobMonitor, timings: dict[str, float]) -> Settlement:
        """Everything up to telling the store; every way a run can end becomes a Settlement."""
        try:
            rendered = self._parts.spool.get(monitor.claim) or self._make(monitor, timings)
            monitor.check(but=KEPT_THROUGH)
            return self._store(rendered, monitor, timings)
        except StoppedWithOutput as stop:
            return self._keep_partial(stop, monitor, timings)
        except Stopped as stop:
            return self._stopped(stop, monitor, timings)
        except VectorsUnavailable as error:  # one that never comes back must not keep jobs for ever
            is_lasting = monitor.claim.attempt >= MOST_HINDRANCES
            return (self._failed if is_lasting else self._hindered)(error, monitor.claim, timings)
        except Unavailable as error:
            return self._hindered(error, monitor.claim, timings)
        except DreamqueueError as error:
            return self._failed(error, monitor.claim, timings)
        except MemoryError:
            return self._failed(OutOfMemory("the worker is out of memory"), monitor.claim, timings)
        except Exception as error:
            log.exception("run failed")
            return self._failed(Internal(f"internal error: {type(error).__name__}"), monitor.claim, timings)

    def _make(self, monitor: JobMonitor, timings: dict[str, float]) -> Rendered:
        claim = monitor.claim
        spec = _spec_of(claim)
        engine = self._parts.engines.get(claim.kind)
        if engine is None:
            raise ModelUnavailable(f"no worker of this pool serves {claim.kind!r} jobs")
        refs = image_refs(spec)
        with _timed(timings, "fetch_s", bool(refs)):
            images = self._parts.inputs.fetch(refs, monitor) if refs else {}
        saved = self._parts.snapshots.fetch(monitor) if engine.resumes else None
        monitor.check()
        shelf = self._parts.shelves.of(monitor) if self._parts.shelves else None
        monitor.is_in_engine = True
        try:
            output = engine.run(Task(spec, images, claim.failures, saved, _was_too_large(claim), shelf), monitor)
        finally:
            monitor.is_in_engine = False
            if shelf:
                shelf.close()
        monitor.offer = None  # what it holds on the device may go
        rendered = self._render(output, timings)
        if rendered.artifacts:
            self._parts.spool.put(claim, rendered)
        return rendered

    def _render(self, output: Output, timings: dict[str, float]) -> Rendered:
        timings.update({name: round(seconds, 6) for name, seconds in output.timings.items()})
        with _timed(timings, "encode_s", bool(output.pictures)):
            return render(output)

    def _store(
        self,
        rendered: Rendered,
        monitor: JobMonitor,
        timings: dict[str, float],
        *,
        state: JobState = JobState.SUCCEEDED,
        but: tuple[type[Stopped], ...] = KEPT_THROUGH,
    ) -> Settlement:
        """Upload everything; the settlement that commits it."""
        self._parts.failpoints.passing(BEFORE_UPLOAD)
        with _timed(timings, "upload_s", bool(rendered.artifacts)):
            stored = self._parts.uploads.put(rendered, monitor, but)
        self._parts.failpoints.passing(AFTER_UPLOAD)
        follow_up = _collecting(monitor.claim, self._settings.pool) if rendered.pictures else None
        return Settlement("commit", state=state, result=rendered.result(stored), timings=timings, follow_up=follow_up)

    def _keep_partial(self, stop: StoppedWithOutput, monitor: JobMonitor, timings: dict[str, float]) -> Settlement:
        """What was finished before a cancel or the deadline is stored; after a lost lease or a drain it is not ours."""
        if not isinstance(stop.cause, Cancelled | DeadlineExceeded):
            return self._stopped(stop.cause, monitor, timings)
        try:
            rendered = self._render(stop.output, timings)
            but = (*KEPT_THROUGH, DeadlineExceeded)
            kept = self._store(rendered, monitor, timings, state=JobState.CANCELLED, but=but)
        except Stopped as stopped:
            return self._stopped(stopped, monitor, timings)
        except (DreamqueueError, OSError) as error:
            log.warning("finished pictures of a stopped run could not be stored", error=str(error))
            return self._stopped(stop.cause, monitor, timings)
        if isinstance(stop.cause, Cancelled):
            return kept
        return Settlement("fail", result=kept.result, error=stop.cause, timings=timings)

    def _stopped(self, stop: Stopped, monitor: JobMonitor, timings: dict[str, float]) -> Settlement:
        if isinstance(stop, Cancelled):
            result = render(Output()).result([])
            return Settlement("commit", state=JobState.CANCELLED, result=result, error=stop, timings=timings)
        if isinstance(stop, DeadlineExceeded):
            return Settlement("fail", error=stop, timings=timings)
        if isinstance(stop, LeaseLost):
            return Settlement("discard", error=stop, timings=timings)
        self._parts.snapshots.save_last(monitor)
        return Settlement("release", error=stop, timings=timings)

    def _hindered(self, error: Unavailable, claim: Claim, timings: dict[str, float]) -> Settlement:
        """A server was away: no fault of the job, which goes back to its place and waits a little."""
        log.warning("run hindered; the job goes back", error=error.message)
        if isinstance(error, ObjectStoreUnavailable):
            self._parts.intake.went_away()
        wait_s = jittered(claim.attempt, self._settings.retry_base_s, self._settings.retry_cap_s)
        return Settlement("release", error=error, delay_s=max(LEAST_DELAY_S, wait_s), timings=timings)

    def _failed(self, error: DreamqueueError, claim: Claim, timings: dict[str, float]) -> Settlement:
        if isinstance(error, OutOfMemory) and _was_too_large(claim):
            error.retryable = False  # this was the try with smaller batches
        if not isinstance(error, EngineError | InvalidInput):
            log.warning("run failed", error=error.message)
        delay_s = jittered(claim.failures, self._settings.retry_base_s, self._settings.retry_cap_s)
        return Settlement("fail", error=error, delay_s=delay_s, timings=timings)


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
