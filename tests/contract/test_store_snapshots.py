"""What the store keeps of a run's snapshots, and who may write it; and a worker that knows it dies."""

from __future__ import annotations

from shared import keys
from shared.jobs import Claim, JobState, SavedRun
from shared.store import JobStore, Signal
from tests.support.workers import submit

ONE = SavedRun(key="k1", step=1, bytes=10, sha256="0" * 64)
TWO = SavedRun(key="k2", step=2, bytes=20, sha256="1" * 64)


def claimed(store: JobStore, pool: str) -> Claim:
    claim = store.claim(pool, "w")
    assert claim is not None
    return claim


def test_the_next_attempt_is_handed_the_last_snapshot(store: JobStore, tenant: str, pool: str) -> None:
    job_id = submit(store, tenant, pool)
    first = claimed(store, pool)
    assert first.snapshot is None
    assert store.note_snapshot(first, ONE) is Signal.OK
    assert store.note_snapshot(first, TWO) is Signal.OK
    assert store.get(tenant, job_id).snapshot == TWO
    store.release(first)
    assert claimed(store, pool).snapshot == TWO


def test_a_late_attempt_cannot_overwrite_it(store: JobStore, tenant: str, pool: str) -> None:
    submit(store, tenant, pool)
    late = claimed(store, pool)
    store.release(late)
    current = claimed(store, pool)
    store.note_snapshot(current, TWO)
    fenced = store.counts().get(("all", "fenced"), 0)
    assert store.note_snapshot(late, ONE) is Signal.LOST
    assert store.counts()["all", "fenced"] > fenced
    store.release(current)
    assert claimed(store, pool).snapshot == TWO


def test_a_note_renews_no_lease(store: JobStore, tenant: str, pool: str) -> None:
    job_id = submit(store, tenant, pool)
    claim = claimed(store, pool)
    before = store.redis.zscore("dq:leases", keys.ref(tenant, job_id))
    store.note_snapshot(claim, ONE)
    assert store.redis.zscore("dq:leases", keys.ref(tenant, job_id)) == before


def test_an_ended_job_has_none(store: JobStore, tenant: str, pool: str) -> None:
    job_id = submit(store, tenant, pool)
    claim = claimed(store, pool)
    store.note_snapshot(claim, ONE)
    store.commit(claim, {}, {})
    assert store.get(tenant, job_id).snapshot is None
    assert store.note_snapshot(claim, TWO) is Signal.LOST


def test_an_abandoned_job_counts_as_lost_at_the_next_sweep(store: JobStore, tenant: str, pool: str) -> None:
    job_id = submit(store, tenant, pool)
    claim = claimed(store, pool)
    assert store.abandon(claim) is Signal.OK
    store.reap()
    record = store.get(tenant, job_id)
    assert (record.state, record.losses, record.failures) == (JobState.QUEUED, 1, 0)
    assert [attempt.outcome for attempt in record.attempts] == ["lost"]
    assert store.abandon(claim) is Signal.LOST
