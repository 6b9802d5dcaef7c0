"""Standing aside on a real worker: paused by the caller, or called away for a job of high priority."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.records.job import JobRecord, JobState, NewJob
from shared.settings import Settings
from shared.storage import ObjectStore
from shared.store.jobs import JobStore
from tests.support.polling import eventually
from tests.support.workers import Worker, submit, until

pytestmark = pytest.mark.integration


@pytest.fixture
def worker(settings: Settings, store: JobStore, objects: ObjectStore, pool: str, tmp_path: Path) -> Iterator[Worker]:
    """One slot, beats twice a second, snapshots faster; a high job waits half a second."""
    own = settings.model_copy(
        update={
            "pool": pool,
            "kinds": "probe",
            "slots": 1,
            "preempt_after_s": 0.5,
            "snapshot_every_s": 0.2,
            "drain_grace_s": 0.0,
        }
    )
    worker = Worker(own, store, tmp_path)
    yield worker
    worker.kill()


def prioritised(store: JobStore, tenant: str, pool: str, priority: str, **spec: object) -> str:
    job_id = str(uuid.uuid4())
    return store.submit(NewJob(job_id, tenant, "probe", pool, {"kind": "probe", **spec}, priority)).id


def held(store: JobStore, tenant: str, job_id: str) -> JobRecord | None:
    record = store.get(tenant, job_id)
    return record if record.state is JobState.QUEUED else None


def test_a_paused_run_stands_still_and_goes_on(worker: Worker, store: JobStore, tenant: str, pool: str) -> None:
    job_id = submit(store, tenant, pool, steps=80, step_s=0.05)
    eventually(lambda: (store.get(tenant, job_id).progress.get("step") or 0) >= 5)
    assert store.pause(tenant, job_id) is JobState.RUNNING
    record = eventually(lambda: held(store, tenant, job_id), what="the job given back")
    assert record.paused
    assert [attempt.outcome for attempt in record.attempts] == ["released"]
    assert (record.losses, record.failures) == (0, 0)
    other = submit(store, tenant, pool)
    assert until(store, tenant, other).state is JobState.SUCCEEDED, "its slot is free for others"
    assert held(store, tenant, job_id)
    store.resume(tenant, job_id)
    record = until(store, tenant, job_id)
    assert record.state is JobState.SUCCEEDED
    assert [attempt.outcome for attempt in record.attempts] == ["released", "succeeded"]
    assert "resumed" in worker.log


def test_a_low_job_yields_to_a_high_one(worker: Worker, store: JobStore, tenant: str, pool: str) -> None:
    low = prioritised(store, tenant, pool, "low", steps=140, step_s=0.05)
    until(store, tenant, low, "running")
    high = prioritised(store, f"{tenant}-z", pool, "high", steps=2)
    ended = until(store, f"{tenant}-z", high)
    assert ended.state is JobState.SUCCEEDED
    record = until(store, tenant, low)
    assert record.state is JobState.SUCCEEDED
    assert (ended.finished_at_ms or 0) < (record.finished_at_ms or 0)
    assert [attempt.outcome for attempt in record.attempts] == ["released", "succeeded"]
    assert store.fleet.counts()["all", "preempted"] >= 1


def test_a_normal_job_does_not_yield(worker: Worker, store: JobStore, tenant: str, pool: str) -> None:
    normal = prioritised(store, tenant, pool, "normal", steps=40, step_s=0.05)
    until(store, tenant, normal, "running")
    high = prioritised(store, tenant, pool, "high")
    assert until(store, tenant, high).state is JobState.SUCCEEDED
    assert [attempt.outcome for attempt in store.get(tenant, normal).attempts] == ["succeeded"]
