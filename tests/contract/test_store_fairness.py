"""Who goes next under load: between tenants by share, within a tenant by priority that ages, at a bounded cost."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from shared.records.job import Claim, NewJob, SavedRun
from shared.settings import Settings
from shared.store import keys
from shared.store.jobs import JobStore, Signal
from shared.store.redis import connect
from shared.store.tenants import Tenants
from tests.support.servers import RedisServer

MINUTE_MS = 60_000
MANY = 10_000


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobStore]:
    """A store on a Redis of its own that does not wait for the disk."""
    server = RedisServer(tmp_path_factory.mktemp("quick"))
    client = connect(Settings(redis_url=server.url))
    client.config_set("appendonly", "no")
    yield JobStore(client, Settings(redis_url=server.url, preempt_after_s=0.001))
    client.close()
    server.process.stop()


def give(store: JobStore, tenant: str, pool: str, priority: str = "normal") -> str:
    return store.submit(NewJob(str(uuid.uuid4()), tenant, "probe", pool, {}, priority)).id


def claimed(store: JobStore, pool: str) -> Claim:
    claim = store.claim(pool, "w")
    assert claim is not None
    return claim


def claim_cost_us(store: JobStore, pool: str, claims: int = 100) -> float:
    """Redis' own time per claim, which no other process on this machine disturbs much."""
    store.redis.config_resetstat()
    for _ in range(claims):
        claimed(store, pool)
    stats: Any = store.redis.info("commandstats")
    return float(stats["cmdstat_evalsha"]["usec_per_call"])


def test_ten_thousand_jobs_delay_another_tenant_by_the_running_ones(quick: JobStore, tenant: str, pool: str) -> None:
    greedy, modest = f"a{tenant}", f"b{tenant}"  # ties go to the lesser name: the worse case
    for _ in range(MANY):
        give(quick, greedy, pool)
    running = [claimed(quick, pool) for _ in range(8)]
    assert {claim.tenant for claim in running} == {greedy}
    job_id = give(quick, modest, pool)
    assert quick.position(quick.get(modest, job_id)) in {(0, MANY - 7), (1, MANY - 7)}
    quick.commit(running[0], {}, {})
    turn = next(number for number in range(MANY) if claimed(quick, pool).id == job_id)
    assert turn <= 1, "it waits for the running jobs, and for one turn of the other tenant at most"


def test_a_claim_costs_the_same_among_ten_thousand(quick: JobStore, tenant: str, pool: str) -> None:
    few, many = f"{pool}-few", f"{pool}-many"
    for _ in range(150):
        give(quick, tenant, few)
    for number in range(MANY):
        give(quick, f"{tenant}-{number % 50}", many, ("low", "normal", "high")[number % 3])
    cost_few, cost_many = claim_cost_us(quick, few), claim_cost_us(quick, many)
    assert cost_many < 3 * cost_few, f"{cost_few:.0f} us among few, {cost_many:.0f} us among many"
    assert cost_many < 2_000


def test_shares_follow_weights(quick: JobStore, tenant: str, pool: str) -> None:
    heavy, light = f"{tenant}-heavy", f"{tenant}-light"
    Tenants(quick.redis).set_weight(heavy, 3)
    for _ in range(60):
        give(quick, heavy, pool)
        give(quick, light, pool)
    assert Counter(claimed(quick, pool).tenant for _ in range(40)) == {heavy: 30, light: 10}
    Tenants(quick.redis).set_weight(heavy, 1)  # takes effect on jobs that wait already
    shares = Counter(claimed(quick, pool).tenant for _ in range(40))
    assert abs(shares[heavy] - shares[light]) <= 2


def test_high_goes_before_normal_before_low(quick: JobStore, tenant: str, pool: str) -> None:
    given = {priority: give(quick, tenant, pool, priority) for priority in ("low", "normal", "high")}
    assert [claimed(quick, pool).id for _ in range(3)] == [given["high"], given["normal"], given["low"]]


def test_a_low_job_does_not_starve_among_high_ones(quick: JobStore, tenant: str, pool: str) -> None:
    """Each minute two high jobs come and one job is claimed. Minutes pass by moving ranks."""
    low = give(quick, tenant, pool, "low")
    for minute in range(60):
        for _ in range(2):
            high = give(quick, tenant, pool, "high")
            quick.redis.zincrby(f"dq:ready:{pool}:{tenant}", minute * MINUTE_MS, high)
        if claimed(quick, pool).id == low:
            break
    assert 35 <= minute <= 45, "twenty minutes behind a high job, and these come twice as fast as they are claimed"


class TestSuspects:
    """Jobs that must run alone have waited too long, while others stand in line."""

    @staticmethod
    def suspect(store: JobStore, tenant: str, pool: str) -> str:
        job_id = give(store, tenant, pool)
        store.redis.hset(keys.job(tenant, job_id), "losses", 2)
        store.pause(tenant, job_id)
        store.resume(tenant, job_id)  # placed anew, by its losses
        store.redis.zadd(f"dq:suspects:{pool}", {keys.ref(tenant, job_id): 1})
        return job_id

    @staticmethod
    def next(store: JobStore, pool: str, worker: str, *, is_idle: bool = True) -> Claim:
        claim = store.claim(pool, worker, is_idle=is_idle)
        assert isinstance(claim, Claim)
        return claim

    def test_one_worker_of_the_pool_at_a_time(self, quick: JobStore, tenant: str, pool: str) -> None:
        for _ in range(4):
            self.suspect(quick, f"a{tenant}", pool)
            give(quick, f"b{tenant}", pool)
        assert quick.claim(pool, "w1", is_idle=False) == "standby"
        assert not self.next(quick, pool, "w2").alone, "another is emptying itself"
        alone = self.next(quick, pool, "w1")
        assert alone.alone
        assert not self.next(quick, pool, "w2").alone, "another runs one"
        assert not self.next(quick, pool, "w3", is_idle=False).alone
        quick.commit(alone, {}, {})
        assert self.next(quick, pool, "w2").alone

    @pytest.mark.parametrize("end", ["commit", "release", "lost", "retried"])
    def test_its_end_lets_the_next_begin(self, end: str, quick: JobStore, tenant: str, pool: str) -> None:
        for _ in range(2):
            self.suspect(quick, f"a{tenant}", pool)
            give(quick, f"b{tenant}", pool)
        alone = self.next(quick, pool, "w1")
        assert alone.alone
        assert quick.redis.get(f"dq:emptying:{pool}") == keys.ref(alone.tenant, alone.id)
        match end:
            case "commit":
                quick.commit(alone, {}, {})
            case "release":
                quick.release(alone)
            case "retried":
                quick.fail(alone, {"code": "probe_failed", "message": "no", "retryable": True}, delay_s=60)
            case _:
                quick.abandon(alone)
                quick.redis.delete("dq:sweep")
                quick.sweeps.reap()
        assert quick.redis.get(f"dq:emptying:{pool}") is None

    def test_while_it_runs_its_place_is_kept(self, quick: JobStore, tenant: str, pool: str) -> None:
        self.suspect(quick, tenant, pool)
        give(quick, tenant, pool)
        alone = self.next(quick, pool, "w1")
        quick.redis.pexpire(f"dq:emptying:{pool}", 2_000)
        assert quick.beat([alone]) == ["ok"]
        assert quick.redis.pttl(f"dq:emptying:{pool}") > 10_000

    def test_one_worker_alone_serves_both_in_turn(self, quick: JobStore, tenant: str, pool: str) -> None:
        for _ in range(4):
            self.suspect(quick, f"a{tenant}", pool)
            give(quick, f"b{tenant}", pool)
        alone = []
        for _ in range(6):
            claim = self.next(quick, pool, "w1")
            alone.append(claim.alone)
            quick.commit(claim, {}, {})
        assert alone == [True, False] * 3

    def test_they_use_their_tenants_share(self, quick: JobStore, tenant: str, pool: str) -> None:
        greedy, modest = f"a{tenant}", f"b{tenant}"
        for _ in range(3):
            self.suspect(quick, greedy, pool)
        for _ in range(3):
            assert self.next(quick, pool, "w1").alone, "nobody else waits"
        for _ in range(6):
            give(quick, greedy, pool)
            give(quick, modest, pool)
        assert [claimed(quick, pool).tenant for _ in range(3)] == [modest] * 3

    def test_runs_that_can_go_on_elsewhere_make_room(self, quick: JobStore, tenant: str, pool: str) -> None:
        for _ in range(2):
            give(quick, tenant, pool)
        saved, unsaved = (self.next(quick, pool, "w1") for _ in range(2))
        quick.note_snapshot(saved, SavedRun(key="k", step=1, bytes=1, sha256="0" * 64))
        resumable = frozenset({"probe"})
        assert quick.beat([saved, unsaved], resumable=resumable) == ["ok", "ok"]
        self.suspect(quick, tenant, pool)
        assert quick.claim(pool, "w1", is_idle=False) == "standby"
        assert quick.beat([saved, unsaved]) == ["ok", "ok"], "their kind cannot"
        assert quick.beat([saved, unsaved], resumable=resumable) == ["yield", "ok"]


class TestCalledAway:
    """A running low job and a high one that waits, beyond what the state machine can age."""

    @staticmethod
    def wait(store: JobStore, tenant: str, job_id: str) -> None:
        store.redis.hset(keys.job(tenant, job_id), "queued_at", 1)

    @staticmethod
    def beat(store: JobStore, *claims: Claim, is_full: bool = True) -> list[Signal]:
        for claim in claims:
            store.note_snapshot(claim, SavedRun(key="k", step=1, bytes=1, sha256="0" * 64))
        return store.beat(list(claims), is_full=is_full, resumable=frozenset({"probe"}))

    def test_the_youngest_of_several(self, quick: JobStore, tenant: str, pool: str) -> None:
        for _ in range(2):
            give(quick, tenant, pool, "low")
        old, young = claimed(quick, pool), claimed(quick, pool)
        quick.redis.hset(keys.job(tenant, old.id), "claimed_at", old.claimed_at_ms - 1000)
        high = give(quick, tenant, pool, "high")
        self.wait(quick, tenant, high)
        assert self.beat(quick, old, young, is_full=False) == ["ok", "ok"]
        assert self.beat(quick, old, young) == ["ok", "yield"]
        assert self.beat(quick, old, young) == ["ok", "yield"], "one makes room, told until it does"
        quick.release(young)
        assert claimed(quick, pool).id == high
        assert self.beat(quick, old) == ["ok"]

    def test_one_without_a_snapshot_is_left_alone(self, quick: JobStore, tenant: str, pool: str) -> None:
        give(quick, tenant, pool, "low")
        running = claimed(quick, pool)
        self.wait(quick, tenant, give(quick, tenant, pool, "high"))
        assert quick.beat([running], is_full=True, resumable=frozenset({"probe"})) == ["ok"]
        assert self.beat(quick, running) == ["yield"]

    def test_one_that_has_aged_is_left_alone(self, quick: JobStore, tenant: str, pool: str) -> None:
        low = give(quick, tenant, pool, "low")
        aged = float(quick.redis.hget(keys.job(tenant, low), "rank") or 0) - 21 * MINUTE_MS
        quick.redis.hset(keys.job(tenant, low), "rank", aged)
        running = claimed(quick, pool)
        self.wait(quick, tenant, give(quick, tenant, pool, "high"))
        assert self.beat(quick, running) == ["ok"]

    def test_only_for_the_first_in_line(self, quick: JobStore, tenant: str, pool: str) -> None:
        give(quick, f"a{tenant}", pool, "low")
        running = claimed(quick, pool)
        give(quick, f"b{tenant}", pool)
        self.wait(quick, f"c{tenant}", give(quick, f"c{tenant}", pool, "high"))
        assert self.beat(quick, running) == ["ok"], "another tenant's normal job is next"
        claimed(quick, pool)
        assert self.beat(quick, running) == ["yield"]

    def test_it_comes_back_behind_the_high_one_whatever_its_turn(self, quick: JobStore, tenant: str, pool: str) -> None:
        first, last = f"a{tenant}", f"z{tenant}"
        for _ in range(3):
            give(quick, last, pool)  # the high job's tenant has used its share, so its next turn is late
            claimed(quick, pool)
        give(quick, first, pool, "low")
        running = claimed(quick, pool)
        high = give(quick, last, pool, "high")
        self.wait(quick, last, high)
        assert self.beat(quick, running) == ["yield"]
        quick.release(running)
        assert [claimed(quick, pool).id for _ in range(2)] == [high, running.id]
