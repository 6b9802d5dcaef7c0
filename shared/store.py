"""JobStore: every move of a job, each one Lua script, on one Redis.

Errors of Redis become StoreUnavailable (shared/connection.py). Writes are never repeated blindly: an unanswered
submit is ambiguous, and the caller's idempotency key makes sending it again safe.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import resources
from typing import Any, cast

import redis

from shared import keys
from shared.connection import guarded
from shared.doorbell import WIRE
from shared.errors import Conflict, Expired, LeaseLost, NotCancellable, NotFound, QueueFull
from shared.jobs import PRIORITIES, Claim, JobRecord, JobState, NewJob
from shared.settings import Settings

__all__ = ["JobPage", "JobStore", "PoolInfo", "Reaped", "Signal", "Submitted", "WorkerInfo"]

SCRIPTS = (
    "submit", "claim", "beat", "progress", "commit", "fail", "release", "cancel", "reap", "promote", "position",
    "forget",
)  # fmt: skip
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


@dataclass(frozen=True)
class WorkerInfo:
    """One live worker, as it describes itself with each beat."""

    name: str
    pool: str
    kinds: list[str]
    models: list[dict[str, Any]]  # id, family, sha256
    device: str
    slots: int
    busy: int
    state: str  # ready or draining
    version: str
    started_at_ms: int
    metrics_port: int = 0


@dataclass(frozen=True)
class PoolInfo:
    """A pool as the store sees it."""

    name: str
    ready_jobs: int
    running_jobs: int
    doorbells: int
    workers: list[WorkerInfo]
    pace_s: dict[str, float]  # kind -> average run seconds

    @property
    def ready_workers(self) -> int:
        """Workers that take jobs now."""
        return sum(worker.state == "ready" for worker in self.workers)


class JobStore:
    """Thread-safe. Every method raises StoreUnavailable when Redis is down, full or too slow."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self.redis = client
        self._settings = settings
        self._lease_ms = int(settings.lease_s * 1000)
        self._constants = json.dumps(
            {
                "doorbell": WIRE,
                "events_max_len": settings.events_max_len,
                "event_ttl_ms": settings.event_ttl_s * 1000,
                "result_ttl_ms": settings.result_ttl_s * 1000,
                "gone_ttl_ms": settings.gone_ttl_s * 1000,
                "idempotency_ttl_ms": settings.idempotency_ttl_s * 1000,
                "max_queued": settings.max_queued_per_tenant,
            }
        )
        self._scripts = {name: client.register_script(_source(name)) for name in SCRIPTS}

    def _run(self, script: str, *args: Any) -> Any:
        return self._scripts[script](args=[self._constants, *args])

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
            return JobRecord.from_hash(cast("dict[str, str]", raw))
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
            for raw in self._hashes(keys.job(tenant, job_id) for job_id in ids):
                start += 1
                record = JobRecord.from_hash(raw) if raw else None
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
        reply = self._run("cancel", keys.ref(tenant, job_id))
        if reply == "missing":
            raise NotFound(f"no job {job_id}")
        if reply == "gone":
            raise Expired(f"job {job_id} ended long ago")
        if reply.startswith("final:"):
            raise NotCancellable(f"job {job_id} has already ended: {reply[6:]}")
        return JobState(reply)

    # --- the worker's side ---------------------------------------------------------------------------------------

    @guarded
    def claim(self, pool: str, worker: str) -> Claim | None:
        """The next job of the pool, leased to `worker`; None when nothing is ready."""
        reply = self._run("claim", pool, worker, self._lease_ms)
        if not reply:
            return None
        tenant, job_id, kind, attempt, spec, created_at, queued_at, deadline_at, failures, claimed_at = reply
        return Claim(
            tenant=tenant,
            id=job_id,
            kind=kind,
            attempt=int(attempt),
            spec=json.loads(spec),
            created_at_ms=int(created_at),
            queued_at_ms=int(queued_at),
            deadline_at_ms=int(deadline_at) if deadline_at else None,
            failures=int(failures),
            claimed_at_ms=int(claimed_at),
        )

    @guarded
    def beat(self, claims: list[Claim]) -> list[Signal]:
        """Renew the leases of all jobs this worker holds, in one round trip; one signal per claim."""
        args = [value for claim in claims for value in (keys.ref(claim.tenant, claim.id), claim.attempt)]
        return [Signal(reply) for reply in self._run("beat", self._lease_ms, *args)]

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
    ) -> JobState:
        """End the job with its result, once. Returns CANCELLED where a cancel came first. Raises LeaseLost."""
        return self._settled(
            self._run(
                "commit",
                keys.ref(claim.tenant, claim.id),
                claim.attempt,
                state.value,
                json.dumps(result),
                json.dumps(timings),
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
    def release(self, claim: Claim) -> JobState:
        """Give the job back without a penalty. Raises LeaseLost."""
        return self._settled(self._run("release", keys.ref(claim.tenant, claim.id), claim.attempt))

    @staticmethod
    def _settled(reply: str) -> JobState:
        if reply == "lost":
            raise LeaseLost("another attempt owns this job")
        return JobState(reply)

    # --- the reaper's side ---------------------------------------------------------------------------------------

    @guarded
    def reap(self, limit: int = 100) -> Reaped:
        """Requeue or fail jobs whose lease ran out; expire queued jobs whose deadline passed. Safe to run anywhere."""
        return Reaped(*(int(n) for n in self._run("reap", limit, self._settings.max_losses)))

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

    # --- workers and pools ---------------------------------------------------------------------------------------

    @guarded
    def announce(self, worker: WorkerInfo) -> None:
        """Tell that a worker lives; it is forgotten after a lease without another call."""
        pipe = self.redis.pipeline()
        pipe.set(keys.worker(worker.name), json.dumps(asdict(worker)), px=self._lease_ms)
        pipe.zadd("dq:workers", {worker.name: time.time()})
        pipe.sadd("dq:pools", worker.pool)
        pipe.execute()

    @guarded
    def depart(self, worker_name: str) -> None:
        """Forget a worker that stops."""
        self.redis.delete(keys.worker(worker_name))
        self.redis.zrem("dq:workers", worker_name)

    @guarded
    def workers(self) -> list[WorkerInfo]:
        """The live ones, by name. Sweeps out the dead."""
        names = cast("list[str]", self.redis.zrange("dq:workers", 0, -1))
        if not names:
            return []
        raws = cast("list[str | None]", self.redis.mget([keys.worker(name) for name in names]))
        dead = [name for name, raw in zip(names, raws, strict=True) if raw is None]
        if dead:
            self.redis.zrem("dq:workers", *dead)
        return sorted((WorkerInfo(**json.loads(raw)) for raw in raws if raw), key=lambda worker: worker.name)

    @guarded
    def pools(self) -> list[PoolInfo]:
        """Every pool that ever held a job or a worker, by name."""
        workers = self.workers()
        running = self._running_by_pool()
        return [
            self._pool(name, [w for w in workers if w.pool == name], running.get(name, 0))
            for name in sorted(cast("set[str]", self.redis.smembers("dq:pools")))
        ]

    def _running_by_pool(self) -> dict[str, int]:
        pipe = self.redis.pipeline(transaction=False)
        for ref in cast("list[str]", self.redis.zrange("dq:leases", 0, -1)):
            pipe.hget(f"dq:job:{ref}", "pool")
        counts: dict[str, int] = {}
        for pool in pipe.execute():
            counts[pool] = counts.get(pool, 0) + 1
        return counts

    def _pool(self, name: str, workers: list[WorkerInfo], running: int) -> PoolInfo:
        tenants = cast("list[str]", self.redis.zrange(f"dq:turn:{name}", 0, -1))
        pipe = self.redis.pipeline(transaction=False)
        pipe.llen(keys.bell(name))
        pipe.hgetall(f"dq:pace:{name}")
        for tenant in tenants:
            pipe.zcard(f"dq:ready:{name}:{tenant}")
        doorbells, pace, *ready = pipe.execute()
        return PoolInfo(
            name, sum(ready), running, doorbells, workers, {kind: float(mean) for kind, mean in pace.items()}
        )

    @guarded
    def counts(self) -> dict[tuple[str, str], int]:
        """(kind, what) -> how often, since the store was made; kind `all` where it does not apply."""
        raw = cast("dict[str, str]", self.redis.hgetall("dq:counts"))
        return {cast("tuple[str, str]", tuple(name.split(":", 1))): int(value) for name, value in raw.items()}

    @guarded
    def ping(self) -> None:
        """Raise StoreUnavailable unless Redis answers."""
        self.redis.ping()


@functools.cache
def _source(name: str) -> str:
    """A script with the library in front of it."""
    folder = resources.files("shared") / "scripts"
    return (folder / "lib.lua").read_text() + "\n" + (folder / f"{name}.lua").read_text()
