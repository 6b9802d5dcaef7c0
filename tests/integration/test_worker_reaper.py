"""Housekeeping: results past their time go, artifacts first."""

from __future__ import annotations

import uuid

import pytest

from shared.errors import Expired, NotFound, StoreUnavailable
from shared.jobs import JobState, NewJob
from shared.settings import Settings
from shared.storage import ObjectStore, artifact_key
from shared.store import JobStore, Reaped
from tests.support.polling import eventually
from worker.reaper import Reaper

pytestmark = pytest.mark.integration


def test_results_past_their_time_go(
    settings: Settings, store: JobStore, objects: ObjectStore, tenant: str, pool: str
) -> None:
    brief = settings.model_copy(update={"result_ttl_s": 1})
    ended = JobStore(store.redis, brief)
    job_id = str(uuid.uuid4())
    ended.submit(NewJob(id=job_id, tenant=tenant, kind="probe", pool=pool, spec={"kind": "probe"}))
    claim = ended.claim(pool, "somebody")
    assert claim is not None
    key = artifact_key(tenant, job_id, 1, "probe.bin")
    objects.put(key, b"abc", "application/octet-stream")
    assert ended.commit(claim, {"files": []}, {}) is JobState.SUCCEEDED
    reaper = Reaper(store, objects, brief.model_copy(update={"reap_period_s": 0.01}))
    reaper.sweep()
    assert store.get(tenant, job_id).state is JobState.SUCCEEDED  # not yet

    def is_gone() -> bool:
        reaper.sweep()
        try:
            store.get(tenant, job_id)
        except Expired:
            return True
        return False

    assert eventually(is_gone, within_s=5)
    with pytest.raises(NotFound):
        objects.head(key)


def test_after_an_outage_workers_get_a_beat_before_leases_are_reaped(
    settings: Settings, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Store:
        is_up = True
        reaps = 0

        def reap(self, _limit: int) -> Reaped:
            if not self.is_up:
                raise StoreUnavailable("away")
            self.reaps += 1
            return Reaped()

        def promote(self, _limit: int) -> tuple[int, int]:
            if not self.is_up:
                raise StoreUnavailable("away")
            return (0, 0)

        def due_for_expiry(self, _limit: int) -> list[tuple[str, str]]:
            return []

    now = [100.0]
    monkeypatch.setattr("worker.reaper.time.monotonic", lambda: now[0])
    store = Store()
    reaper = Reaper(store, objects, settings)  # type: ignore[arg-type]
    reaper.sweep()
    assert store.reaps == 1
    store.is_up = False
    with pytest.raises(StoreUnavailable):
        reaper.sweep()
    store.is_up = True
    reaper.sweep()
    assert store.reaps == 1
    now[0] += settings.beat_s + 0.01
    reaper.sweep()
    assert store.reaps == 2
