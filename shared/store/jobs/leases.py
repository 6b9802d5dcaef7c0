"""The worker's side of the job store: claim a job, keep its lease, and end the attempt in one of four ways."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from typing import Any, Literal, overload

from shared.errors import LeaseLost, UnreadableRecord
from shared.logs import get_logger
from shared.records.job import Claim, JobState, NewJob, SavedRun
from shared.store import keys
from shared.store.jobs.forms import claim_of, job_to_json
from shared.store.lua import ScriptedStore
from shared.store.redis import guarded

__all__ = ["STANDBY", "Signal", "Standby", "WorkerSide"]

log = get_logger(__name__)

Standby = Literal["standby"]
STANDBY: Standby = "standby"  # instead of a claim: take nothing until this worker is idle, a suspect waits for it


class Signal(StrEnum):
    """What the store tells the owner of a job with each beat."""

    OK = "ok"
    CANCEL = "cancel"  # stop at the next step and commit what is finished
    YIELD = "yield"  # stop at the next step, take a snapshot if the engine can, give the job back
    LOST = "lost"  # another attempt owns the job; throw everything away


class WorkerSide(ScriptedStore):
    """What a worker asks of the store. Thread-safe."""

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
                return claim_of(reply)
            except UnreadableRecord as error:
                self._end_unreadable(reply, error)
        return None

    def _end_unreadable(self, reply: list[Any], error: UnreadableRecord) -> None:
        """A job that was leased to us and cannot be understood fails, instead of going round for ever."""
        tenant, job_id, _, attempt, *_ = reply
        log.error("job ended: its record cannot be read", tenant=tenant, job_id=job_id, error=error.message)
        self.redis.hincrby(keys.counts(), "all:unreadable", 1)
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
                "" if follow_up is None else job_to_json(follow_up),
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
