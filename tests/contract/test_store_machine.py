"""A hypothesis state machine drives every script on a real Redis and compares it with tests/support/queue_model.py.

Time is moved by ageing scores in Redis, never by sleeping. The suite runs 100 examples of at most 60 steps;
`HYPOTHESIS_PROFILE=long HYPOTHESIS_EXAMPLES=2000` (tests/contract/conftest.py) as many as one likes, 10^5 steps and
more. With `pytest -s` it ends by saying how many steps it took.
"""

from __future__ import annotations

import os
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

from shared.errors import Conflict, LeaseLost, NotCancellable, QueueFull
from shared.records.job import FINAL, Claim, JobRecord, JobState, NewJob, SavedRun
from shared.settings import Settings
from shared.store import keys
from shared.store.audit import Audit
from shared.store.jobs import JobStore
from shared.store.redis import connect
from tests.support.queue_model import AGES_AGO, ModelJob, ModelPool
from tests.support.servers import RedisServer

TENANTS = ["ant", "bee", "cow"]
WEIGHTS = {"bee": 3}
POOLS = ["p", "q"]
ERROR = {"code": "probe_failed", "message": "no", "retryable": True}


def machine_for(store: JobStore, settings: Settings) -> type[RuleBasedStateMachine]:
    """The machine's class, bound to one store; each run starts from an empty Redis."""
    auditor = Audit(store.redis, settings)

    class StoreMachine(RuleBasedStateMachine):
        steps = 0  # taken by all examples together
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
            self.records: dict[str, JobRecord] = {}  # as the last step left them

        @initialize(target=jobs_made)
        def begin_with_running_jobs(self) -> Any:
            """Most transitions start from a running job, which few random beginnings reach."""
            ids = [self.submit(tenant, "p", "normal", 3600.0) for tenant in TENANTS]
            self.claim("p", "w1", is_idle=True)
            self.claim("p", "w2", is_idle=False)
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
            job = ModelJob(job_id, tenant, pool, priority, store.get(tenant, job_id).created_at_ms, len(self.jobs))
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
                    job = ModelJob(
                        done.id, tenant, "p", "normal", store.get(tenant, done.id).created_at_ms, len(self.jobs)
                    )
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
                self.end_wait(job, JobState.CANCELLED)
            else:
                assert store.cancel(job.tenant, job_id) == JobState.RUNNING
                job.cancel = True

        @rule(job_id=jobs_made)
        def pause(self, job_id: str) -> None:
            job = self.jobs[job_id]
            if job.state in FINAL:
                with pytest.raises(NotCancellable):
                    store.pause(job.tenant, job_id)
                return
            assert store.pause(job.tenant, job_id) == job.state
            if job.state == JobState.QUEUED and not job.paused:
                self.pools[job.pool].remove(job)
                job.delayed = False
                job.held = True
            job.paused = True

        @rule(job_id=jobs_made)
        def resume(self, job_id: str) -> None:
            job = self.jobs[job_id]
            if job.state in FINAL:
                with pytest.raises(NotCancellable):
                    store.resume(job.tenant, job_id)
                return
            assert store.resume(job.tenant, job_id) == job.state
            job.paused = False
            if job.held:
                job.held = False
                self.wait(job)

        def wait(self, job: ModelJob, *, is_called_away: bool = False) -> None:
            """A queued job goes where such a job waits."""
            pool = self.pools[job.pool]
            job.has_waited = False
            if job.paused:
                job.held = True
            elif job.losses >= settings.max_losses - 1:
                pool.suspect(job, store.redis.zscore(f"dq:suspects:{job.pool}", keys.ref(job.tenant, job.id)))
            elif is_called_away:
                pool.add_behind(job)
            else:
                pool.add(job)

        def end_wait(self, job: ModelJob, state: JobState) -> None:
            """A queued job ends."""
            self.pools[job.pool].remove(job)
            job.delayed = job.held = job.paused = False
            job.move(state)

        def end_run(self, job: ModelJob, outcome: str, state: JobState) -> None:
            """A running job ends, or goes back."""
            job.close(outcome)
            job.move(state)
            job.alone = False
            if self.pools[job.pool].emptying is job:
                self.pools[job.pool].emptying = None
            if state in FINAL:
                job.paused = False

        # --- the worker ---

        @rule(target=claims, pool=st.sampled_from(POOLS), worker=st.sampled_from(["w1", "w2"]), is_idle=st.booleans())
        def claim(self, pool: str, worker: str, is_idle: bool) -> Any:
            expected, late = self.pools[pool].take(worker, is_idle=is_idle)
            for job in late:
                self.end_wait(job, JobState.EXPIRED)
            claim = store.claim(pool, worker, is_idle=is_idle)
            if not isinstance(expected, ModelJob):
                assert claim == expected
                return multiple()
            assert isinstance(claim, Claim)
            assert claim.id == expected.id
            expected.move(JobState.RUNNING)
            expected.attempt += 1
            expected.worker = worker
            expected.outcomes.append(None)
            assert (claim.attempt, claim.alone) == (expected.attempt, expected.alone)
            assert claim.snapshot == expected.saved
            self.claims_made.append(claim)
            return claim

        def owned(self, claim: Claim) -> ModelJob | None:
            job = self.jobs[claim.id]
            return job if job.state == JobState.RUNNING and job.attempt == claim.attempt else None

        @rule(held=st.lists(claims, min_size=1, max_size=4, unique_by=lambda claim: (claim.id, claim.attempt)),
              is_full=st.booleans())  # fmt: skip
        def beat(self, held: list[Claim], is_full: bool) -> None:
            expected = [self.told(job) if (job := self.owned(claim)) else "lost" for claim in held]
            if is_full and "yield" not in expected:
                self.call_away(held, expected)
            assert store.beat(held, is_full=is_full, resumable=frozenset({"probe"})) == expected

        def told(self, job: ModelJob) -> str:
            """By a beat: a run that can go on elsewhere makes room where its worker empties itself."""
            makes_room = bool(job.saved) and not job.alone and self.pools[job.pool].emptying == job.worker
            return "yield" if job.told == "ok" and makes_room else job.told

        def call_away(self, held: list[Claim], expected: list[str]) -> None:
            """The youngest low job yields to a high one that is first in line and has waited."""
            may = [n for n, claim in enumerate(held) if expected[n] == "ok" and self.yields(self.jobs[claim.id])]
            if not may:
                return
            number = max(may, key=lambda n: held[n].claimed_at_ms)
            job = self.jobs[held[number].id]
            first = self.pools[job.pool].first()
            if first and first.priority == "high" and first.has_waited and not first.has_called:
                assert first.rank < job.rank
                first.has_called = True
                job.yielding = job.attempt
                expected[number] = "yield"

        @staticmethod
        def yields(job: ModelJob) -> bool:
            return job.priority == "low" and not job.alone and job.saved is not None

        @precondition(lambda self: self.live_claims())
        @rule(data=st.data(), then_release=st.booleans())
        def high_job_needs_a_slot(self, data: st.DataObject, then_release: bool) -> None:
            """The rule above seldom meets a low job running beside a high one that waits; this one makes them meet."""
            pool = data.draw(st.sampled_from(POOLS))
            self.submit("cow", pool, "low", None)
            self.claim(pool, "w1", is_idle=True)
            self.submit(data.draw(st.sampled_from(TENANTS)), pool, "high", None)
            self.high_jobs_wait()
            held = self.live_claims()[-3:]
            for claim in held:
                self.save(claim, 5)
            self.beat(held, is_full=True)
            if then_release:
                for claim in held:
                    if (job := self.owned(claim)) and job.yielding == job.attempt:
                        self.release(claim)

        @rule(claim=claims)
        def progress(self, claim: Claim) -> None:
            job = self.owned(claim)
            assert store.progress(claim, {"fraction": 0.5}) == (job.told if job else "lost")
            self.fenced += job is None

        @rule(claim=claims, step=st.integers(1, 9))
        def save(self, claim: Claim, step: int) -> None:
            job, saved = self.owned(claim), SavedRun(f"k{step}", step, 10, "0" * 64)
            assert store.note_snapshot(claim, saved) == ("ok" if job else "lost")
            if job:
                job.saved = saved
                if saved.step > job.lost_step:
                    job.losses = 0
            else:
                self.fenced += 1

        @rule(claim=claims)
        def abandon_late(self, claim: Claim) -> None:
            if not self.owned(claim):
                assert store.abandon(claim) == "lost"
                self.fenced += 1

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
            job.result = {"v": value}
            self.end_run(job, state.value, state)

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
            self.end_run(job, outcome, state)
            job.held = job.paused
            job.delayed = state == JobState.QUEUED and not job.paused
            job.has_waited = False

        @rule(claim=claims)
        def release(self, claim: Claim) -> None:
            if self.refused(claim, lambda: store.release(claim)):
                return
            job = self.jobs[claim.id]
            state = JobState.CANCELLED if job.cancel else JobState.QUEUED
            assert store.release(claim) == state
            self.end_run(job, "cancelled" if job.cancel else "released", state)
            if state == JobState.QUEUED:
                self.wait(job, is_called_away=job.yielding == job.attempt)

        def live_claims(self) -> list[Claim]:
            return [claim for claim in self.claims_made if self.owned(claim)]

        @precondition(lambda self: self.live_claims())
        @rule(
            data=st.data(),
            act=st.sampled_from(
                [
                    "commit",
                    "fail",
                    "fail, due",
                    "release",
                    "save, release",
                    "pause, release",
                    "pause, fail",
                    "cancel",
                    "cancel, commit",
                ]
            ),
        )
        def owner_acts(self, data: st.DataObject, act: str) -> None:
            """The rules above mostly draw stale claims; this one draws a job's owner."""
            claim = data.draw(st.sampled_from(self.live_claims()))
            if act.startswith("save"):
                self.save(claim, 3)
            if act.startswith("pause"):
                self.pause(claim.id)
            if act == "commit":
                self.commit(claim, 1)
            elif act.endswith("release"):
                self.release(claim)
            elif "fail" in act:
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
            owner = next(claim for claim in self.live_claims() if claim.id == job.id)
            if data.draw(st.booleans(), label="knows that it dies"):
                assert store.abandon(owner) == "ok"
            else:
                store.redis.zadd("dq:leases", {keys.ref(job.tenant, job.id): 1})
            store.sweeps.reap()
            job.losses += 1
            job.lost_step = job.saved.step if job.saved else 0
            is_poison = job.alone and job.losses >= settings.max_losses
            ends = JobState.FAILED if job.late or is_poison else JobState.QUEUED
            state = JobState.CANCELLED if job.cancel else ends
            self.end_run(job, "lost", state)
            if state == JobState.QUEUED:
                self.wait(job)
            self.late_ones_expire()

        @rule(pool=st.sampled_from(POOLS))
        def suspects_wait(self, pool: str) -> None:
            for job in self.pools[pool].suspects:
                store.redis.zadd(f"dq:suspects:{pool}", {keys.ref(job.tenant, job.id): AGES_AGO})
                job.suspect_since = AGES_AGO
            self.pools[pool].sort_suspects()

        @rule()
        def high_jobs_wait(self) -> None:
            for job in self.jobs.values():
                if job.priority == "high" and job.state == JobState.QUEUED:
                    store.redis.hset(keys.job(job.tenant, job.id), "queued_at", AGES_AGO)
                    job.has_waited = True

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
            store.sweeps.reap()
            self.late_ones_expire()

        def late_ones_expire(self) -> None:
            """What every sweep of the reaper does besides returning leases."""
            for job in self.jobs.values():
                if job.late and job.state == JobState.QUEUED:
                    self.end_wait(job, JobState.EXPIRED)

        @rule()
        def retries_come_due(self) -> None:
            for ref in store.redis.zrange("dq:delayed", 0, -1):
                store.redis.zadd("dq:delayed", {ref: 1})
            store.sweeps.promote()
            for job in self.jobs.values():
                if job.delayed:
                    job.delayed = False
                    waited = job.has_waited
                    self.wait(job)
                    job.has_waited = waited  # its queued_at stays that of the failure

        @rule()
        def audit(self) -> None:
            bells_lost = dict.fromkeys(POOLS, 1_000)  # lose_doorbells takes them
            found = [violation for batch in auditor.sweep(bells_lost) for violation in batch]
            assert found == []

        @rule(pool=st.sampled_from(POOLS))
        def lose_doorbells(self, pool: str) -> None:
            store.redis.delete(keys.bell(pool))

        # --- what must hold after every step ---

        @invariant()
        def all_holds(self) -> None:
            StoreMachine.steps += 1
            self.records_agree()
            self.every_job_is_in_one_place()
            self.positions_are_exact()
            self.quotas_and_counts_add_up()

        def records_agree(self) -> None:
            pipe = store.redis.pipeline(transaction=False)
            for job in self.jobs.values():
                pipe.hgetall(keys.job(job.tenant, job.id))
            self.records = {raw["id"]: JobRecord.from_hash(raw) for raw in pipe.execute()}
            for job in self.jobs.values():
                record = self.records[job.id]
                assert record.state == job.state
                assert (record.attempt, record.failures, record.losses) == (job.attempt, job.failures, job.losses)
                assert (record.finished_at_ms is not None) == (job.state in FINAL)
                assert record.result == job.result
                assert record.paused == job.paused
                assert [attempt.outcome for attempt in record.attempts] == job.outcomes

        def every_job_is_in_one_place(self) -> None:
            lines = [(pool, tenant) for pool in POOLS for tenant in TENANTS]
            others = [f"dq:suspects:{pool}" for pool in POOLS] + ["dq:held", "dq:delayed", "dq:leases", "dq:expiry"]
            pipe = store.redis.pipeline(transaction=False)
            for key in [*(f"dq:ready:{pool}:{tenant}" for pool, tenant in lines), *others]:
                pipe.zrange(key, 0, -1)
            found = pipe.execute()
            places = [keys.ref(line[1], job_id) for line, ids in zip(lines, found, strict=False) for job_id in ids]
            places += [ref for refs in found[len(lines) :] for ref in refs]
            assert sorted(places) == sorted(keys.ref(job.tenant, job.id) for job in self.jobs.values())

        def positions_are_exact(self) -> None:
            for name, pool in self.pools.items():
                order = pool.order()
                ready = len(order) + len(pool.suspects)
                for line in (order, pool.suspects):
                    for index, job in enumerate(line):
                        assert store.position(self.records[job.id]) == (index, ready), name

        def quotas_and_counts_add_up(self) -> None:
            for tenant in TENANTS:
                queued = [j for j in self.jobs.values() if j.tenant == tenant and j.state == JobState.QUEUED]
                assert int(store.redis.get(f"dq:queued:{tenant}") or 0) == len(queued)
            counts = store.fleet.counts()
            assert counts.get(("all", "fenced"), 0) == self.fenced
            for state in FINAL:
                ended = [job for job in self.jobs.values() if job.state == state]
                assert counts.get(("probe", state.value), 0) == len(ended)

        def teardown(self) -> None:
            store.sweeps.promote()
            for name, pool in self.pools.items():
                ready = len(pool.order()) + len(pool.suspects)
                assert store.redis.llen(keys.bell(name)) >= ready, "a ready job has no doorbell"

    return StoreMachine


@pytest.mark.timeout(6 * 3600 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 600)
def test_scripts_agree_with_the_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every rule above, in random order, against one Redis of its own."""
    server = RedisServer(tmp_path_factory.mktemp("machine"))
    settings = Settings(
        redis_url=server.url, max_queued_per_tenant=8, max_failures=2, max_losses=2,
        lease_s=3600, isolate_after_s=3600, preempt_after_s=3600,
    )  # fmt: skip
    client = connect(settings)
    client.config_set("appendonly", "no")  # what survives a crash is tested elsewhere; here many steps are wanted
    try:
        machine = machine_for(JobStore(client, settings), settings)
        run_state_machine_as_test(machine)
        print(f"state machine: {machine.steps} steps")  # type: ignore[attr-defined]  # noqa: T201  (the long run is judged by it)
    finally:
        client.close()
        server.process.stop()
