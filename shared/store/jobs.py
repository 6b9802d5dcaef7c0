"""JobStore: every move of a job, each one Lua script, on one Redis.

Errors of Redis become StoreUnavailable (shared/store/redis.py). Writes are never repeated blindly: an unanswered
submit is ambiguous, and the caller's idempotency key makes sending it again safe.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal, cast, overload

from shared.errors import Conflict, Expired, LeaseLost, NotCancellable, NotFound, QueueFull, UnreadableRecord
from shared.logs import get_logger
from shared.records.job import PRIORITIES, Claim, JobRecord, JobState, NewJob, SavedRun, saved_run
from shared.records.reading import FieldReader
from shared.store import keys
from shared.store.redis import guarded
from shared.store.workers import FleetStore

__all__ = ["STANDBY", "JobPage", "JobStore", "Reaped", "Signal", "Standby", "Submitted"]

log = get_logger(__name__)

Standby = Literal["standby"]
STANDBY: Standby = "standby"  # instead of a claim: take nothing until this worker is idle, a suspect waits for it
SLOW_SWEEP_S = 2.0  # a sweep may come so much later than its period before it looks like an outage
LIST_SCAN = 1_000  # records one list call reads at most; the cursor goes on from there


class Signal(StrEnum):
    """What the store tells the owner of a job with each beat."""

    OK = "ok"
    CANCEL = "cancel"  # stop at the next step and commit what is finished
    YIELD = "yield"  # stop at the next step, take a snapshot if the engine can, give the job back
    LOST = "lost"  # another attempt owns the job; throw everything away


@dataclass(frozen=True)
class Submitted:
    """`created` is false when the same submission had been accepted before."""

    id: str
    created: bool


@dataclass(frozen=True)
class JobPage:
    """Newest first; `next_cursor` is None on the last page."""

    jobs: list[JobRecord]
    next_cursor: str | None


@dataclass(frozen=True)
class Reaped:
    """What one sweep did."""

    requeued: int = 0
    worker_lost: int = 0
    cancelled: int = 0
    expired: int = 0
    deadline_exceeded: int = 0


class JobStore(FleetStore):
    """Thread-safe. Every method raises StoreUnavailable when Redis is down, full or too slow."""

    # --- the caller's side ---------------------------------------------------------------------------------------

    @guarded
    def submit(self, job: NewJob) -> Submitted:
        """Accept a job durably and ring for a worker. Raises Conflict, QueueFull."""
        code, job_id = self._run(
            "submit",
            job.tenant,
            job.id,
            job.pool,
            job.kind,
            json.dumps(job.spec),
            job.priority,
            PRIORITIES[job.priority],
            "" if job.deadline_s is None else int(job.deadline_s * 1000),
            json.dumps(job.metadata),
            job.retry_of or "",
            job.idempotency_key or "",
            job.fingerprint,
            "" if job.result_ttl_s is None else int(job.result_ttl_s * 1000),
            job.request_id,
        )
        if code == "conflict":
            raise Conflict(f"job {job_id} was accepted before with other content")
        if code == "full":
            limit = self._settings.max_queued_per_tenant
            raise QueueFull(f"{limit} jobs of yours are queued already, which is the limit")
        return Submitted(job_id, created=code == "created")

    @guarded
    def get(self, tenant: str, job_id: str) -> JobRecord:
        """The record. Raises NotFound, or Expired when its retention is over."""
        raw = self.redis.hgetall(keys.job(tenant, job_id))
        if raw:
            return _record(tenant, job_id, cast("dict[str, str]", raw))
        if self.redis.zscore(f"dq:jobs:{tenant}", job_id) is not None:
            raise Expired(f"job {job_id} ended long ago; its record and artifacts are gone")
        raise NotFound(f"no job {job_id}")

    @guarded
    def position(self, job: JobRecord) -> tuple[int, int] | None:
        """(jobs claimed before this one, jobs ready in its pool); None when it is not ready. Exact at this moment."""
        reply = self._run("position", keys.ref(job.tenant, job.id), job.pool)
        return (int(reply[0]), int(reply[1])) if reply else None

    @guarded
    def list_jobs(
        self,
        tenant: str,
        *,
        state: JobState | None = None,
        kind: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> JobPage:
        """One page of the tenant's jobs. A cursor is opaque; a page may be short of `limit` where a filter is rare."""
        start = int(cursor or 0)
        found: list[JobRecord] = []
        scanned = 0
        while len(found) < limit and scanned < LIST_SCAN:
            ids = cast("list[str]", self.redis.zrange(f"dq:jobs:{tenant}", start, start + limit - 1, desc=True))
            for job_id, raw in zip(ids, self._hashes(keys.job(tenant, job_id) for job_id in ids), strict=True):
                start += 1
                record = _record(tenant, job_id, raw) if raw else None
                if record and (state is None or record.state == state) and (kind is None or record.kind == kind):
                    found.append(record)
                    if len(found) == limit:
                        break
            scanned += len(ids)
            if len(ids) < limit and len(found) < limit:
                return JobPage(found, None)
        return JobPage(found, str(start))

    def _hashes(self, names: Iterable[str]) -> list[dict[str, str]]:
        pipe = self.redis.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(name)
        return cast("list[dict[str, str]]", pipe.execute())

    @guarded
    def cancel(self, tenant: str, job_id: str) -> JobState:
        """CANCELLED when it was queued; RUNNING when its worker was told. Raises NotFound, Expired, NotCancellable."""
        return self._steered(job_id, self._run("cancel", keys.ref(tenant, job_id)))

    @guarded
    def pause(self, tenant: str, job_id: str) -> JobState:
        """QUEUED: held until resume(). RUNNING: its worker was told to give it back. Raises as cancel()."""
        return self._steered(job_id, self._run("pause", keys.ref(tenant, job_id)))

    @guarded
    def resume(self, tenant: str, job_id: str) -> JobState:
        """Let a paused job go on; nothing happens to one that is not paused. Raises as cancel()."""
        return self._steered(job_id, self._run("resume", keys.ref(tenant, job_id)))

    @staticmethod
    def _steered(job_id: str, reply: str) -> JobState:
        if reply == "missing":
            raise NotFound(f"no job {job_id}")
        if reply == "gone":
            raise Expired(f"job {job_id} ended long ago")
        if reply.startswith("final:"):
            raise NotCancellable(f"job {job_id} has already ended: {reply[6:]}")
        return JobState(reply)

    # --- the worker's side ---------------------------------------------------------------------------------------

    @overload
    def claim(self, pool: str, worker: str) -> Claim | None: ...

    @overload
    def claim(self, pool: str, worker: str, *, is_idle: bool) -> Claim | Standby | None: ...

    @guarded
    def claim(self, pool: str, worker: str, *, is_idle: bool = True) -> Claim | Standby | None:
        """The next job of the pool, leased to `worker`; None when nothing is ready. A suspect is only given to a worker
        that holds nothing else (`is_idle`); one that does is told to stand by where a suspect has waited too long."""
        patience_ms = int(self._settings.isolate_after_s * 1000)
        while reply := self._run("claim", pool, worker, self._lease_ms, "1" if is_idle else "0", patience_ms):
            if reply == STANDBY:
                return STANDBY
            try:
                return _claim(reply)
            except UnreadableRecord as error:
                self._end_unreadable(reply, error)
        return None

    def _end_unreadable(self, reply: list[Any], error: UnreadableRecord) -> None:
        """A job that was leased to us and cannot be understood fails, instead of going round for ever."""
        tenant, job_id, _, attempt, *_ = reply
        log.error("job ended: its record cannot be read", tenant=tenant, job_id=job_id, error=error.message)
        self.redis.hincrby("dq:counts", "all:unreadable", 1)
        reason = json.dumps(error.to_json())
        self._run("fail", keys.ref(tenant, job_id), attempt, reason, "0", 0, self._settings.max_failures, "", "{}")

    @guarded
    def beat(
        self, claims: list[Claim], *, is_full: bool = False, resumable: frozenset[str] = frozenset()
    ) -> list[Signal]:
        """Renew the leases of all jobs this worker holds, in one round trip; one signal per claim. Where no slot is
        free, a low job of the `resumable` kinds may be told to yield to a high one that waits."""
        patience_ms = int(self._settings.preempt_after_s * 1000)
        triples = ((keys.ref(c.tenant, c.id), c.attempt, "1" if c.kind in resumable else "0") for c in claims)
        args = [value for triple in triples for value in triple]
        return [
            Signal(reply) for reply in self._run("beat", self._lease_ms, "1" if is_full else "0", patience_ms, *args)
        ]

    @guarded
    def progress(
        self,
        claim: Claim,
        progress: dict[str, Any],
        *,
        event: str = "progress",
        data: dict[str, Any] | None = None,
    ) -> Signal:
        """Write `progress` to the record and append an event (`data`, or the progress itself); renews the lease."""
        reply = self._run(
            "progress",
            keys.ref(claim.tenant, claim.id),
            claim.attempt,
            self._lease_ms,
            json.dumps(progress),
            event,
            json.dumps({"state": "running", **(progress if data is None else data)}),
        )
        return Signal(reply)

    @guarded
    def commit(
        self,
        claim: Claim,
        result: dict[str, Any],
        timings: dict[str, float],
        *,
        state: JobState = JobState.SUCCEEDED,
        follow_up: NewJob | None = None,
    ) -> JobState:
        """End the job with its result, once, and where it succeeded accept the job of the same tenant that follows from
        it, above any quota. Returns CANCELLED where a cancel came first. Raises LeaseLost."""
        return self._settled(
            self._run(
                "commit",
                keys.ref(claim.tenant, claim.id),
                claim.attempt,
                state.value,
                json.dumps(result),
                json.dumps(timings),
                _following(follow_up),
            )
        )

    @guarded
    def fail(
        self,
        claim: Claim,
        error: dict[str, Any],
        *,
        delay_s: float = 0.0,
        result: dict[str, Any] | None = None,
        timings: dict[str, float] | None = None,
    ) -> JobState:
        """End the attempt in `error`; QUEUED means it runs again after `delay_s`. Raises LeaseLost."""
        return self._settled(
            self._run(
                "fail",
                keys.ref(claim.tenant, claim.id),
                claim.attempt,
                json.dumps(error),
                "1" if error["retryable"] else "0",
                int(delay_s * 1000),
                self._settings.max_failures,
                "" if result is None else json.dumps(result),
                json.dumps(timings or {}),
            )
        )

    @guarded
    def release(self, claim: Claim, *, delay_s: float = 0.0, error: dict[str, Any] | None = None) -> JobState:
        """Give the job back without a penalty, to run again after `delay_s`; `error` is why, for the list of attempts.
        Raises LeaseLost."""
        reason = "" if error is None else json.dumps(error)
        reply = self._run("release", keys.ref(claim.tenant, claim.id), claim.attempt, int(delay_s * 1000), reason)
        return self._settled(reply)

    @guarded
    def note_snapshot(self, claim: Claim, saved: SavedRun) -> Signal:
        """The next attempt's claim carries `saved`. OK, or LOST; renews no lease."""
        return Signal(self._run("snapshot", keys.ref(claim.tenant, claim.id), claim.attempt, json.dumps(asdict(saved))))

    @guarded
    def abandon(self, claim: Claim) -> Signal:
        """This worker dies under the job: its lease ends now, and the next sweep counts the loss. OK or LOST."""
        return Signal(self._run("abandon", keys.ref(claim.tenant, claim.id), claim.attempt))

    @staticmethod
    def _settled(reply: str) -> JobState:
        if reply == "lost":
            raise LeaseLost("another attempt owns this job")
        return JobState(reply)

    # --- the reaper's side ---------------------------------------------------------------------------------------

    @guarded
    def reap(self, limit: int = 100) -> Reaped:
        """Requeue or fail jobs whose lease ran out; expire queued jobs whose deadline passed. Safe to run anywhere.
        When no worker had reached Redis for a while, leases are left alone until each live one could beat again."""
        gap_s = max(self._settings.lease_s / 3, self._settings.reap_period_s + SLOW_SWEEP_S)
        grace_s = self._settings.beat_s + self._settings.redis_timeout_s
        return Reaped(
            *(int(n) for n in self._run("reap", limit, self._lease_ms, int(gap_s * 1000), int(grace_s * 1000)))
        )

    @guarded
    def promote(self, limit: int = 100) -> tuple[int, int]:
        """(retries made ready, doorbells rung because some were missing)."""
        promoted, rung = self._run("promote", limit)
        return int(promoted), int(rung)

    @guarded
    def due_for_expiry(self, limit: int = 100) -> list[tuple[str, str]]:
        """(tenant, id) of ended jobs whose retention is over. Delete their artifacts, then forget() them."""
        due = self.redis.zrange("dq:expiry", "-inf", self.now_ms(), byscore=True, offset=0, num=limit)
        return [keys.split_ref(ref) for ref in cast("list[str]", due)]

    @guarded
    def forget(self, tenant: str, job_id: str) -> None:
        """Drop the record of an expired job; its id answers Expired from now on."""
        self._run("forget", keys.ref(tenant, job_id))

    @guarded
    def now_ms(self) -> int:
        """Redis' clock."""
        seconds, micros = self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000


def _following(job: NewJob | None) -> str:
    if job is None:
        return ""
    return json.dumps(
        {
            "id": job.id,
            "pool": job.pool,
            "kind": job.kind,
            "spec": json.dumps(job.spec),
            "priority": job.priority,
            "offset_ms": PRIORITIES[job.priority],
            "metadata": json.dumps(job.metadata),
            "fingerprint": job.fingerprint,
            "request_id": job.request_id,
        }
    )


def _record(tenant: str, job_id: str, raw: dict[str, str]) -> JobRecord:
    return JobRecord.from_hash({"tenant": tenant, "id": job_id, **raw})


CLAIM_FIELDS = ("tenant", "id", "kind", "attempt", "spec", "created_at", "queued_at", "deadline_at", "failures", "now",
                "snapshot", "alone", "error", "request_id")  # fmt: skip


def _claim(reply: list[Any]) -> Claim:
    """Raises UnreadableRecord where the worker could not tell what to do; what it can do without is left out."""
    read = FieldReader({name: str(value) for name, value in zip(CLAIM_FIELDS, reply, strict=True)})
    spec = read.optional_json("spec", dict)
    if spec is None or not read.text("kind"):
        raise UnreadableRecord("this job's record cannot be read: its kind or its spec makes no sense", field="spec")
    return Claim(
        tenant=read.text("tenant"),
        id=read.text("id"),
        kind=read.text("kind"),
        attempt=read.integer("attempt"),
        spec=spec,
        created_at_ms=read.integer("created_at"),
        queued_at_ms=read.integer("queued_at"),
        deadline_at_ms=read.optional_integer("deadline_at"),
        failures=read.integer("failures"),
        claimed_at_ms=read.integer("now"),
        snapshot=saved_run(read.text("snapshot")),
        alone=read.text("alone") == "1",
        last_error_code=str(read.json("error", dict, {}).get("code", "")),
        request_id=read.text("request_id"),
    )
