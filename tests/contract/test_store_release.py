"""A job given back because a server was away: no failure, its old place, a bit later. What claims know of errors."""

from __future__ import annotations

from shared.records.job import Claim, JobState
from shared.store.jobs import JobStore
from tests.support.polling import eventually
from tests.support.workers import submit

AWAY = {"code": "object_store_unavailable", "message": "away", "retryable": True}
FULL = {"code": "out_of_memory", "message": "full", "retryable": True}


def claimed(store: JobStore, pool: str) -> Claim:
    claim = store.claim(pool, "w", is_idle=True)
    assert isinstance(claim, Claim)
    return claim


def test_it_waits_without_a_penalty(store: JobStore, tenant: str, pool: str) -> None:
    first, second = (submit(store, tenant, pool, deadline_s=3600) for _ in range(2))
    assert store.release(claimed(store, pool), delay_s=3600, error=AWAY) is JobState.QUEUED
    record = store.get(tenant, first)
    assert (record.state, record.failures, record.losses, record.error) == (JobState.QUEUED, 0, 0, None)
    assert record.due_at_ms is not None
    assert record.due_at_ms > store.now_ms() + 3000_000
    assert [(attempt.outcome, attempt.error) for attempt in record.attempts] == [("released", AWAY)]
    assert claimed(store, pool).id == second
    assert store.claim(pool, "w") is None
    assert store.redis.get(f"dq:queued:{tenant}") == "1"
    assert store.redis.zscore("dq:deadlines", f"{tenant}:{first}") is not None


def test_it_comes_back_to_its_place(store: JobStore, tenant: str, pool: str) -> None:
    first = submit(store, tenant, pool)
    submit(store, tenant, pool)
    store.release(claimed(store, pool), delay_s=0.001)
    eventually(lambda: store.sweeps.promote() and store.get(tenant, first).due_at_ms is None)
    assert claimed(store, pool).id == first


def test_a_cancel_or_a_pause_goes_before_the_wait(store: JobStore, tenant: str, pool: str) -> None:
    cancelled = submit(store, tenant, pool)
    claim = claimed(store, pool)
    store.cancel(tenant, cancelled)
    assert store.release(claim, delay_s=3600) is JobState.CANCELLED
    paused = submit(store, tenant, pool)
    claim = claimed(store, pool)
    store.pause(tenant, paused)
    store.release(claim, delay_s=3600)
    store.resume(tenant, paused)
    assert claimed(store, pool).id == paused


def test_a_claim_knows_the_last_error_not_what_came_between(store: JobStore, tenant: str, pool: str) -> None:
    submit(store, tenant, pool)
    first = claimed(store, pool)
    assert first.last_error_code == ""
    store.fail(first, FULL, delay_s=0)
    eventually(lambda: store.sweeps.promote()[0] or store.redis.zcard("dq:delayed") == 0)
    second = claimed(store, pool)
    assert (second.last_error_code, second.failures) == ("out_of_memory", 1)
    store.release(second)
    assert claimed(store, pool).last_error_code == "out_of_memory"
