"""A job that follows from another, and jobs with a retention of their own."""

from __future__ import annotations

import uuid

import pytest

from shared.errors import LeaseLost, NotFound, QueueFull
from shared.records.job import JobState, NewJob
from shared.settings import Settings
from shared.store.jobs import JobStore
from tests.support.polling import eventually


def new_job(tenant: str, pool: str, **fields: object) -> NewJob:
    return NewJob(id=str(uuid.uuid4()), tenant=tenant, kind="probe", pool=pool, spec={"kind": "probe"}, **fields)  # type: ignore[arg-type]


def test_the_following_job_is_accepted_with_the_commit_and_only_once(store: JobStore, tenant: str, pool: str) -> None:
    first, second = new_job(tenant, pool), new_job(tenant, pool, priority="low", metadata={"a": "b"})
    store.submit(first)
    claim = store.claim(pool, "w")
    assert claim is not None
    assert store.commit(claim, {}, {}, follow_up=second) is JobState.SUCCEEDED
    with pytest.raises(LeaseLost):
        store.commit(claim, {}, {}, follow_up=new_job(tenant, pool))
    record = store.get(tenant, second.id)
    assert (record.state, record.priority, record.metadata, record.spec) == (
        JobState.QUEUED, "low", {"a": "b"}, {"kind": "probe"},
    )  # fmt: skip
    following = store.claim(pool, "w")
    assert following is not None
    assert following.id == second.id
    assert store.claim(pool, "w") is None


def test_nothing_follows_from_a_cancelled_job(store: JobStore, tenant: str, pool: str) -> None:
    first, second = new_job(tenant, pool), new_job(tenant, pool)
    store.submit(first)
    claim = store.claim(pool, "w")
    assert claim is not None
    store.cancel(tenant, first.id)
    assert store.commit(claim, {}, {}, follow_up=second) is JobState.CANCELLED
    with pytest.raises(NotFound):
        store.get(tenant, second.id)


def test_a_retention_of_its_own_leaves_nothing(store: JobStore, tenant: str, pool: str) -> None:
    job = new_job(tenant, pool, result_ttl_s=0.05)
    store.submit(job)
    claim = store.claim(pool, "w")
    assert claim is not None
    store.commit(claim, {"x": 1}, {})
    record = store.get(tenant, job.id)
    assert record.expires_at_ms is not None
    assert record.finished_at_ms is not None
    assert record.expires_at_ms - record.finished_at_ms == 50
    eventually(lambda: (tenant, job.id) in store.sweeps.due_for_expiry(), what="the job's end of retention")
    store.sweeps.forget(tenant, job.id)
    with pytest.raises(NotFound):
        store.get(tenant, job.id)


def test_a_key_outlives_no_forgotten_job(store: JobStore, tenant: str, pool: str) -> None:
    def keyed() -> NewJob:
        return new_job(tenant, pool, result_ttl_s=60, idempotency_key="k", fingerprint="same")

    first = store.submit(keyed())
    assert store.submit(keyed()).id == first.id
    claim = store.claim(pool, "w")
    assert claim is not None
    store.commit(claim, {}, {})
    assert not store.submit(keyed()).created
    store.sweeps.forget(tenant, first.id)
    again = store.submit(keyed())
    assert again.created
    assert again.id != first.id


def test_a_queue_full_of_pictures_does_not_refuse_searches(
    store: JobStore, settings: Settings, tenant: str, pool: str
) -> None:
    small = JobStore(store.redis, settings.model_copy(update={"max_queued_per_tenant": 10}))
    for _ in range(10):
        small.submit(new_job(tenant, pool))
    with pytest.raises(QueueFull):
        small.submit(new_job(tenant, pool))
    assert small.submit(new_job(tenant, pool, result_ttl_s=60)).created
    with pytest.raises(QueueFull):
        small.submit(new_job(tenant, pool, result_ttl_s=60))
