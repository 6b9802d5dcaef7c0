"""The caller's side of the job store: submit, look, cancel, pause."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from shared.errors import Conflict, Expired, NotCancellable, NotFound, QueueFull
from shared.records.job import JobRecord, JobState, NewJob
from shared.store import keys
from shared.store.jobs.forms import job_record, job_to_json
from shared.store.lua import ScriptedStore
from shared.store.redis import guarded

__all__ = ["CallerSide", "JobPage", "Submitted"]

LIST_SCAN = 1_000  # records one list call reads at most; the cursor goes on from there


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


class CallerSide(ScriptedStore):
    """What the API asks of the store. Thread-safe."""

    @guarded
    def submit(self, job: NewJob) -> Submitted:
        """Accept a job durably and ring for a worker. Raises Conflict, QueueFull."""
        code, job_id = self._run("submit", job_to_json(job))
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
            return job_record(tenant, job_id, cast("dict[str, str]", raw))
        if self.redis.zscore(keys.jobs(tenant), job_id) is not None:
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
        start, found = int(cursor or 0), list[JobRecord]()
        until = start + LIST_SCAN
        while start < until:
            ids = self._ids(tenant, start, limit)
            for job in self._records(tenant, ids):
                start += 1
                if job is not None and state in (None, job.state) and kind in (None, job.kind):
                    found.append(job)
                if len(found) == limit:
                    return JobPage(found, str(start))
            if len(ids) < limit:
                return JobPage(found, None)
        return JobPage(found, str(start))

    def _ids(self, tenant: str, start: int, count: int) -> list[str]:
        """Newest first."""
        return cast("list[str]", self.redis.zrange(keys.jobs(tenant), start, start + count - 1, desc=True))

    def _records(self, tenant: str, ids: list[str]) -> Iterator[JobRecord | None]:
        pipe = self.redis.pipeline(transaction=False)
        for job_id in ids:
            pipe.hgetall(keys.job(tenant, job_id))
        for job_id, raw in zip(ids, cast("list[dict[str, str]]", pipe.execute()), strict=True):
            yield job_record(tenant, job_id, raw) if raw else None

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
