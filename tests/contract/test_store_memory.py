"""Redis' memory stays bounded: what ended leaves with its retention, and an id costs little until it is forgotten."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from shared.errors import Expired, NotFound
from shared.records.job import NewJob
from shared.settings import Settings
from shared.store.jobs import JobStore
from shared.store.redis import connect
from tests.support.servers import RedisServer

TENANT, POOL = "ant", "p"
JOBS = 200
LONG_AGO = 1


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobStore]:
    """On a Redis of its own, whose memory is looked at."""
    server = RedisServer(tmp_path_factory.mktemp("memory"))
    settings = Settings(redis_url=server.url)
    client = connect(settings)
    client.config_set("appendonly", "no")
    yield JobStore(client, settings)
    client.close()
    server.process.stop()


def run_jobs(store: JobStore) -> list[str]:
    """Jobs from submit to commit, with events and a result of a few kilobytes."""
    ids = [store.submit(NewJob(str(uuid.uuid4()), TENANT, "probe", POOL, {})).id for _ in range(JOBS)]
    while claim := store.claim(POOL, "w"):
        store.progress(claim, {"fraction": 0.5})
        store.commit(claim, {"text": "x" * 4_000}, {})
    store.redis.delete(f"dq:bell:{POOL}")  # workers hear them
    return ids


def age(store: JobStore, ids: list[str]) -> None:
    """Retention passes: the events' by Redis itself, the records' by the reaper."""
    for job_id in ids:
        assert 0 < store.redis.pttl(f"dq:events:{TENANT}:{job_id}") <= 3_600_000
        store.redis.delete(f"dq:events:{TENANT}:{job_id}")
        store.redis.zadd("dq:expiry", {f"{TENANT}:{job_id}": LONG_AGO})
    while due := store.sweeps.due_for_expiry():
        for tenant, job_id in due:
            store.sweeps.forget(tenant, job_id)


def used(store: JobStore) -> int:
    return int(store.redis.info("memory")["used_memory"])


def test_rounds_of_jobs_leave_little(store: JobStore) -> None:
    age(store, run_jobs(store))
    keys_before, used_before = store.redis.dbsize(), used(store)
    ids: list[str] = []
    for _ in range(4):
        ids = run_jobs(store)
        grown = used(store) - used_before
        assert grown > JOBS * 4_000, "the results are there"
        age(store, ids)
    assert store.redis.dbsize() == keys_before
    assert used(store) - used_before < 4 * JOBS * 400, "an id and nothing more"
    with pytest.raises(Expired):
        store.get(TENANT, ids[0])


def test_ids_go_in_the_end(store: JobStore) -> None:
    old = run_jobs(store)
    age(store, old)
    store.redis.zadd(f"dq:jobs:{TENANT}", dict.fromkeys(old, LONG_AGO))
    age(store, run_jobs(store))
    assert store.redis.zcard(f"dq:jobs:{TENANT}") == JOBS
    with pytest.raises(NotFound):
        store.get(TENANT, old[0])
