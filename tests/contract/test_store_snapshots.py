"""What the store keeps of a run's snapshots, and who may write it; and a worker that knows it dies."""

from __future__ import annotations

from shared.records.job import Claim, JobState, SavedRun
from shared.store import keys
from shared.store.jobs import JobStore, Signal
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
    fenced = store.fleet.counts().get(("all", "fenced"), 0)
    assert store.note_snapshot(late, ONE) is Signal.LOST
    assert store.fleet.counts()["all", "fenced"] > fenced
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
    store.redis.delete("dq:sweep")  # other tests' workers may have swept long ago
    store.sweeps.reap()
    record = store.get(tenant, job_id)
    assert (record.state, record.losses, record.failures) == (JobState.QUEUED, 1, 0)
    assert [attempt.outcome for attempt in record.attempts] == ["lost"]
    assert store.abandon(claim) is Signal.LOST


class TestLosses:
    """A run that gets on is not its workers' murderer."""

    @staticmethod
    def lose(store: JobStore, claim: Claim) -> None:
        store.abandon(claim)
        store.redis.delete("dq:sweep")
        store.sweeps.reap()

    def test_progress_beyond_the_last_loss_forgets_them(self, store: JobStore, tenant: str, pool: str) -> None:
        job_id = submit(store, tenant, pool)
        for step in range(1, 6):  # more workers than max_losses
            claim = claimed(store, pool)
            assert not claim.alone
            store.note_snapshot(claim, SavedRun(key=f"k{step}", step=step, bytes=10, sha256="0" * 64))
            self.lose(store, claim)
            assert store.get(tenant, job_id).losses == 1

    def test_the_same_step_again_does_not(self, store: JobStore, tenant: str, pool: str) -> None:
        job_id = submit(store, tenant, pool)
        for losses in (1, 2, 3):
            claim = claimed(store, pool)
            if losses > 1:
                store.note_snapshot(claim, ONE)
            else:
                store.note_snapshot(claim, TWO)
            self.lose(store, claim)
            assert store.get(tenant, job_id).losses == losses
        assert store.get(tenant, job_id).state is JobState.FAILED

    def test_a_suspect_that_got_on_is_not_failed(self, store: JobStore, tenant: str, pool: str) -> None:
        job_id = submit(store, tenant, pool)
        for _ in range(2):
            self.lose(store, claimed(store, pool))
        alone = claimed(store, pool)
        assert alone.alone
        store.note_snapshot(alone, ONE)
        self.lose(store, alone)
        record = store.get(tenant, job_id)
        assert (record.state, record.losses) == (JobState.QUEUED, 1)
        assert not claimed(store, pool).alone
