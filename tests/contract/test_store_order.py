"""Jobs run in the order they came, those of one millisecond, too."""

from __future__ import annotations

import pytest

from shared.records.job import PRIORITIES, Claim, JobState
from shared.settings import Settings
from shared.store import keys
from shared.store.jobs import JobStore
from shared.store.redis import connect
from tests.support.workers import submit


def order_of_claims(store: JobStore, pool: str) -> list[str]:
    found = []
    while isinstance(claim := store.claim(pool, "w", is_idle=True), Claim):
        found.append(claim.id)
    return found


def in_one_millisecond(store: JobStore, tenant: str, pool: str, count: int) -> list[str]:
    """Many submits in one transaction: Redis' clock hardly moves."""
    return [submit(store, tenant, pool) for _ in range(count)]


def test_as_they_came(store: JobStore, tenant: str, pool: str) -> None:
    given = in_one_millisecond(store, tenant, pool, 300)
    times = [store.get(tenant, job_id).created_at_ms for job_id in given]
    assert len(set(times)) < len(times), "no two of them share a millisecond: the test shows nothing"
    positions = [store.position(store.get(tenant, job_id)) for job_id in given]
    assert positions == [(index, 300) for index in range(300)]
    listed = store.list_jobs(tenant, limit=200).jobs
    assert [record.id for record in listed] == given[::-1][:200]
    assert order_of_claims(store, pool) == given


@pytest.mark.parametrize("priority", sorted(PRIORITIES))
def test_within_each_priority(store: JobStore, tenant: str, pool: str, priority: str) -> None:
    given = [submit(store, tenant, pool, priority=priority) for _ in range(50)]
    assert order_of_claims(store, pool) == given


@pytest.mark.parametrize("back_ms", [1, 500, 999])
def test_a_clock_that_is_set_back_a_little_changes_no_order(
    store: JobStore, tenant: str, pool: str, back_ms: int
) -> None:
    store.redis.delete("dq:order")
    first = submit(store, tenant, pool)
    store.redis.set("dq:order", store.now_ms() + back_ms)  # what the clock had said before
    given = [first, *(submit(store, tenant, pool) for _ in range(5))]
    assert order_of_claims(store, pool) == given


def test_a_clock_that_is_set_back_for_good_is_believed(store: JobStore, tenant: str, pool: str) -> None:
    store.redis.set("dq:order", store.now_ms() + 3_600_000)
    job_id = submit(store, tenant, pool)
    rank = float(store.redis.hget(keys.job(tenant, job_id), "rank") or 0)
    assert rank < store.now_ms() + 1_000  # else whatever comes in the next hour would wait for it


def test_a_dead_workers_jobs_come_back_in_their_order(settings: Settings, tenant: str, pool: str) -> None:
    store = JobStore(connect(settings), settings.model_copy(update={"max_losses": 1}))
    given = in_one_millisecond(store, tenant, pool, 20)
    assert order_of_claims(store, pool) == given
    store.redis.zadd("dq:leases", {keys.ref(tenant, job_id): 1 for job_id in given})
    while any(store.get(tenant, job_id).state is JobState.RUNNING for job_id in given):
        store.redis.delete("dq:sweep")
        store.sweeps.reap()
    assert store.redis.zcard(f"dq:suspects:{pool}") == 20
    assert order_of_claims(store, pool) == given
