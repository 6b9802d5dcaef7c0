"""Housekeeping: results past their time go, artifacts first."""

from __future__ import annotations

import uuid
from types import SimpleNamespace

import pytest

from shared.errors import Expired, NotFound
from shared.records.job import JobState, NewJob
from shared.settings import Settings
from shared.storage import ObjectStore, artifact_key
from shared.store import keys
from shared.store.jobs import JobStore, Reaped
from worker.maintenance.reaper import BATCH, ROUNDS, Reaper

pytestmark = pytest.mark.integration


def test_results_past_their_time_go(
    settings: Settings, store: JobStore, objects: ObjectStore, tenant: str, pool: str
) -> None:
    job_id = str(uuid.uuid4())
    store.submit(NewJob(id=job_id, tenant=tenant, kind="probe", pool=pool, spec={"kind": "probe"}))
    claim = store.claim(pool, "somebody")
    assert claim is not None
    key = artifact_key(tenant, job_id, 1, "probe.bin")
    objects.put(key, b"abc", "application/octet-stream")
    assert store.commit(claim, {"files": []}, {}) is JobState.SUCCEEDED
    Reaper(store, objects, settings).sweep()
    assert store.get(tenant, job_id).state is JobState.SUCCEEDED  # not yet
    store.redis.zadd("dq:expiry", {keys.ref(tenant, job_id): 1})
    Reaper(store, objects, settings).sweep()
    with pytest.raises(Expired):
        store.get(tenant, job_id)
    with pytest.raises(NotFound):
        objects.head(key)


def test_a_sweep_goes_on_while_there_is_more(
    settings: Settings, store: JobStore, objects: ObjectStore, tenant: str, pool: str
) -> None:
    jobs = [NewJob(str(uuid.uuid4()), tenant, "probe", pool, {}, deadline_s=60) for _ in range(2 * BATCH + 5)]
    for job in jobs:
        store.submit(job)
    store.redis.zadd("dq:deadlines", {f"{tenant}:{job.id}": 1 for job in jobs})
    Reaper(store, objects, settings).sweep()
    assert {record.state for record in store.list_jobs(tenant, limit=500).jobs} == {JobState.EXPIRED}


def test_but_not_without_an_end(settings: Settings, objects: ObjectStore) -> None:
    class Sweeps:
        reaps = promotions = 0

        def reap(self, limit: int) -> Reaped:
            self.reaps += 1
            return Reaped(requeued=limit)

        def promote(self, _limit: int) -> tuple[int, int]:
            self.promotions += 1
            return (0, 0)

        def due_for_expiry(self, _limit: int) -> list[tuple[str, str]]:
            return []

    sweeps = Sweeps()
    Reaper(SimpleNamespace(sweeps=sweeps), objects, settings).sweep()  # type: ignore[arg-type]
    assert (sweeps.reaps, sweeps.promotions) == (ROUNDS, 1)
