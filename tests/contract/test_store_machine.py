"""A hypothesis state machine drives every script on a real Redis and compares it with tests/support/queue_model.py.

Time is moved by ageing scores in Redis, never by sleeping. Steps: 30 examples of 60 in the suite;
`HYPOTHESIS_PROFILE=long` (tests/contract/conftest.py) runs 2,000 examples.
"""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared import keys
from shared.connection import connect
from shared.errors import Conflict, LeaseLost, NotCancellable, QueueFull
from shared.jobs import FINAL, Claim, JobState, NewJob
from shared.settings import Settings
from shared.store import JobStore, Signal
from tests.support.queue_model import ModelJob, ModelPool
from tests.support.servers import RedisServer

TENANTS = ["ant", "bee", "cow"]
WEIGHTS = {"bee": 3}
POOLS = ["p", "q"]
ERROR = {"code": "probe_failed", "message": "no", "retryable": True}


def machine_for(store: JobStore, settings: Settings) -> type[RuleBasedStateMachine]:
    """The machine's class, bound to one store; each run starts from an empty Redis."""

    class StoreMachine(RuleBasedStateMachine):
        claims = Bundle("claims")
        jobs_made = Bundle("jobs_made")

        def __init__(self) -> None:
            super().__init__()
            store.redis.flushall()
            store.redis.hset("dq:weight", mapping=WEIGHTS)
            self.pools = {name: ModelPool(WEIGHTS) for name in POOLS}
            self.jobs: dict[str, ModelJob] = {}
            self.idempotent: dict[tuple[str, str], tuple[str, str]] = {}
            self.fenced = 0
            self.claims_made: list[Claim] = []

        @initialize(target=jobs_made)
        def begin_with_running_jobs(self) -> Any:
            """Most transitions start from a running job, which few random beginnings reach."""
            ids = [self.submit(tenant, "p", "normal", 3600.0) for tenant in TENANTS]
            self.claim("p", "w1")
            self.claim("p", "w2")
            return multiple(*ids)

        # --- the caller ---

        @rule(
            target=jobs_made,
            tenant=st.sampled_from(TENANTS),
            pool=st.sampled_from(POOLS),
            priority=st.sampled_from(["high", "normal", "low"]),
            deadline_s=st.none() | st.just(3600.0),
        )
        def submit(self, tenant: str, pool: str, priority: str, deadline_s: float | None) -> str:
            job_id = str(uuid.uuid4())
            new = NewJob(job_id, tenant, "probe", pool, {}, priority, deadline_s, fingerprint="f")
            waiting = [job for job in self.jobs.values() if job.tenant == tenant and job.state == JobState.QUEUED]
            if len(waiting) >= settings.max_queued_per_tenant:
                with pytest.raises(QueueFull):
                    store.submit(new)
                return next(iter(self.jobs))
            assert store.submit(new).created
            job = ModelJob(job_id, tenant, pool, priority, store.get(tenant, job_id).created_at_ms)
            self.jobs[job_id] = job
            self.pools[pool].add(job)
            return job_id

        @rule(job_id=jobs_made, same=st.booleans())
        def submit_same_id(self, job_id: str, same: bool) -> None:
            job = self.jobs[job_id]
            new = NewJob(job_id, job.tenant, "probe", job.pool, {}, fingerprint="f" if same else "other")
            if same:
                assert not store.submit(new).created
            else:
                with pytest.raises(Conflict):
                    store.submit(new)

        @rule(tenant=st.sampled_from(TENANTS), key=st.sampled_from("xy"), body=st.sampled_from("12"))
        def submit_idempotent(self, tenant: str, key: str, body: str) -> None:
            new = NewJob(str(uuid.uuid4()), tenant, "probe", "p", {}, idempotency_key=key, fingerprint=body)
            known = self.idempotent.get((tenant, key))
            try:
                done = store.submit(new)
            except Conflict:
                assert known is not None
                assert known[1] != body
            except QueueFull:
                assert known is None
            else:
                assert done.created == (known is None)
                if known:
                    assert (done.id, body) == known
                else:
                    self.idempotent[tenant, key] = (done.id, body)
                    job = ModelJob(done.id, tenant, "p", "normal", store.get(tenant, done.id).created_at_ms)
                    self.jobs[done.id] = job
                    self.pools["p"].add(job)

        @rule(job_id=jobs_made)
        def cancel(self, job_id: str) -> None:
            job = self.jobs[job_id]
            if job.state in FINAL:
                with pytest.raises(NotCancellable):
                    store.cancel(job.tenant, job_id)
            elif job.state == JobState.QUEUED:
                assert store.cancel(job.tenant, job_id) == JobState.CANCELLED
                self.pools[job.pool].remove(job)
                job.delayed = False
                job.move(JobState.CANCELLED)
            else:
                assert store.cancel(job.tenant, job_id) == JobState.RUNNING
                job.cancel = True

        # --- the worker ---

        @rule(target=claims, pool=st.sampled_from(POOLS), worker=st.sampled_from(["w1", "w2"]))
        def claim(self, pool: str, worker: str) -> Any:
            expected, late = self.pools[pool].take()
            for job in late:
                job.move(JobState.EXPIRED)
            claim = store.claim(pool, worker)
            assert (claim.id if claim else None) == (expected.id if expected else None)
            if claim and expected:
                expected.move(JobState.RUNNING)
                expected.attempt += 1
                expected.outcomes.append(None)
                assert claim.attempt == expected.attempt
                self.claims_made.append(claim)
            return claim or multiple()

        def owned(self, claim: Claim) -> ModelJob | None:
            job = self.jobs[claim.id]
            return job if job.state == JobState.RUNNING and job.attempt == claim.attempt else None

        @rule(claim=claims)
        def beat(self, claim: Claim) -> None:
            job = self.owned(claim)
            expected = Signal.LOST if job is None else Signal.CANCEL if job.cancel else Signal.OK
            assert store.beat([claim]) == [expected]

        @rule(claim=claims)
        def progress(self, claim: Claim) -> None:
            job = self.owned(claim)
            expected = Signal.LOST if job is None else Signal.CANCEL if job.cancel else Signal.OK
            assert store.progress(claim, {"fraction": 0.5}) == expected
            self.fenced += job is None

        def refused(self, claim: Claim, write: Any) -> bool:
            if self.owned(claim):
                return False
            with pytest.raises(LeaseLost):
                write()
            self.fenced += 1
            return True

        @rule(claim=claims, value=st.integers(0, 9))
        def commit(self, claim: Claim, value: int) -> None:
            if self.refused(claim, lambda: store.commit(claim, {"v": value}, {})):
                return
            job = self.jobs[claim.id]
            state = JobState.CANCELLED if job.cancel else JobState.SUCCEEDED
            assert store.commit(claim, {"v": value}, {}) == state
            job.close(state.value)
            job.result = {"v": value}
            job.move(state)

        @rule(claim=claims, retryable=st.booleans())
        def fail(self, claim: Claim, retryable: bool) -> None:
            error = {**ERROR, "retryable": retryable}
            if self.refused(claim, lambda: store.fail(claim, error)):
                return
            job = self.jobs[claim.id]
            if job.cancel:
                outcome, state = "cancelled", JobState.CANCELLED
            else:
                job.failures += 1
                again = retryable and job.failures < settings.max_failures
                outcome, state = ("retried", JobState.QUEUED) if again else ("failed", JobState.FAILED)
            assert store.fail(claim, error, delay_s=3600) == state
            job.close(outcome)
            job.move(state)
            job.delayed = state == JobState.QUEUED

        @rule(claim=claims)
        def release(self, claim: Claim) -> None:
            if self.refused(claim, lambda: store.release(claim)):
                return
            job = self.jobs[claim.id]
            state = JobState.CANCELLED if job.cancel else JobState.QUEUED
            assert store.release(claim) == state
            job.close("cancelled" if job.cancel else "released")
            job.move(state)
            if state == JobState.QUEUED:
                self.pools[job.pool].add(job)

        def live_claims(self) -> list[Claim]:
            return [claim for claim in self.claims_made if self.owned(claim)]

        @precondition(lambda self: self.live_claims())
        @rule(
            data=st.data(), act=st.sampled_from(["commit", "fail", "fail, due", "release", "cancel", "cancel, commit"])
        )
        def owner_acts(self, data: st.DataObject, act: str) -> None:
            """The rules above mostly draw stale claims; this one draws a job's owner."""
            claim = data.draw(st.sampled_from(self.live_claims()))
            if act == "commit":
                self.commit(claim, 1)
            elif act == "release":
                self.release(claim)
            elif act.startswith("fail"):
                self.fail(claim, retryable=True)
                if act == "fail, due":
                    self.retries_come_due()
            else:
                self.cancel(claim.id)
                if act == "cancel, commit":
                    self.commit(claim, 2)

        # --- time and the reaper ---

        @precondition(lambda self: any(job.state == JobState.RUNNING for job in self.jobs.values()))
        @rule(data=st.data())
        def lose_lease(self, data: st.DataObject) -> None:
            running = [job for job in self.jobs.values() if job.state == JobState.RUNNING]
            job = data.draw(st.sampled_from(running))
            store.redis.zadd("dq:leases", {keys.ref(job.tenant, job.id): 1})
            store.reap()
            job.losses += 1
            job.close("lost")
            if job.cancel:
                job.move(JobState.CANCELLED)
            elif job.late or job.losses >= settings.max_losses:
                job.move(JobState.FAILED)
            else:
                job.move(JobState.QUEUED)
                self.pools[job.pool].add(job)
            self.late_ones_expire()

        @rule(job_id=jobs_made)
        def pass_deadline(self, job_id: str) -> None:
            job = self.jobs[job_id]
            ref = keys.ref(job.tenant, job_id)
            if store.redis.hget(keys.job(job.tenant, job_id), "deadline_at"):
                store.redis.hset(keys.job(job.tenant, job_id), "deadline_at", 1)
                job.late = True
                if store.redis.zscore("dq:deadlines", ref) is not None:
                    store.redis.zadd("dq:deadlines", {ref: 1})

        @rule()
        def reap(self) -> None:
            store.reap()
            self.late_ones_expire()

        def late_ones_expire(self) -> None:
            """What every sweep of the reaper does besides returning leases."""
            for job in self.jobs.values():
                if job.late and job.state == JobState.QUEUED:
                    self.pools[job.pool].remove(job)
                    job.delayed = False
                    job.move(JobState.EXPIRED)

        @rule()
        def retries_come_due(self) -> None:
            for ref in store.redis.zrange("dq:delayed", 0, -1):
                store.redis.zadd("dq:delayed", {ref: 1})
            store.promote()
            for job in self.jobs.values():
                if job.delayed:
                    job.delayed = False
                    self.pools[job.pool].add(job)

        @rule(pool=st.sampled_from(POOLS))
        def lose_doorbells(self, pool: str) -> None:
            store.redis.delete(keys.bell(pool))

        # --- what must hold after every step ---

        @invariant()
        def records_agree(self) -> None:
            for job in self.jobs.values():
                record = store.get(job.tenant, job.id)
                assert record.state == job.state
                assert (record.attempt, record.failures, record.losses) == (job.attempt, job.failures, job.losses)
                assert (record.finished_at_ms is not None) == (job.state in FINAL)
                assert record.result == job.result
                assert [attempt.outcome for attempt in record.attempts] == job.outcomes

        @invariant()
        def every_job_is_in_one_place(self) -> None:
            places: list[str] = []
            for pool in POOLS:
                for tenant in TENANTS:
                    places += [
                        keys.ref(tenant, job_id) for job_id in store.redis.zrange(f"dq:ready:{pool}:{tenant}", 0, -1)
                    ]
            places += store.redis.zrange("dq:delayed", 0, -1)
            places += store.redis.zrange("dq:leases", 0, -1)
            places += store.redis.zrange("dq:expiry", 0, -1)
            assert sorted(places) == sorted(keys.ref(job.tenant, job.id) for job in self.jobs.values())

        @invariant()
        def positions_are_exact(self) -> None:
            for name, pool in self.pools.items():
                order = pool.order()
                for index, job in enumerate(order):
                    assert store.position(store.get(job.tenant, job.id)) == (index, len(order)), name

        @invariant()
        def quotas_and_counts_add_up(self) -> None:
            for tenant in TENANTS:
                queued = [j for j in self.jobs.values() if j.tenant == tenant and j.state == JobState.QUEUED]
                assert int(store.redis.get(f"dq:queued:{tenant}") or 0) == len(queued)
            counts = store.counts()
            assert counts.get(("all", "fenced"), 0) == self.fenced
            for state in FINAL:
                ended = [job for job in self.jobs.values() if job.state == state]
                assert counts.get(("probe", state.value), 0) == len(ended)

        def teardown(self) -> None:
            store.promote()
            for name, pool in self.pools.items():
                assert store.redis.llen(keys.bell(name)) >= len(pool.order()), "a ready job has no doorbell"

    return StoreMachine


@pytest.mark.timeout(600)
def test_scripts_agree_with_the_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every rule above, in random order, against one Redis of its own."""
    server = RedisServer(tmp_path_factory.mktemp("machine"))
    settings = Settings(redis_url=server.url, max_queued_per_tenant=8, max_failures=2, max_losses=2)
    client = connect(settings)
    try:
        run_state_machine_as_test(machine_for(JobStore(client, settings), settings))
    finally:
        client.close()
        server.process.stop()
