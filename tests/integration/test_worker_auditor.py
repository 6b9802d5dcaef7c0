"""A running worker audits: what is planted in the store is mended, counted and logged."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.records.job import JobState
from shared.settings import Settings
from shared.storage import ObjectStore
from shared.store.audit import INVARIANTS
from shared.store.jobs import JobStore
from shared.store.redis import connect
from tests.support.polling import PATIENCE_S, eventually
from tests.support.servers import RedisServer
from tests.support.workers import Worker, submit, until

pytestmark = pytest.mark.integration


@pytest.fixture
def own(settings: Settings, objects: ObjectStore, tmp_path: Path) -> Iterator[Settings]:
    """A Redis of its own: one worker audits all of it."""
    server = RedisServer(tmp_path / "redis")
    yield settings.model_copy(update={"redis_url": server.url, "pool": "p", "kinds": "probe", "audit_period_s": 0.3})
    server.process.stop()


def violations(worker: Worker) -> dict[str, float]:
    """From the worker's own /metrics."""
    info = worker.info()
    assert info is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{info.metrics_port}/metrics", timeout=PATIENCE_S) as answer:
        text = answer.read().decode()
    found = re.findall(r'^dreamqueue_invariant_violations_total\{invariant="(\w+)"\} (\S+)$', text, re.M)
    return {name: float(value) for name, value in found}


@pytest.fixture
def store(own: Settings) -> Iterator[JobStore]:
    client = connect(own)
    yield JobStore(client, own)
    client.close()


@pytest.fixture
def worker(own: Settings, store: JobStore, tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(own, store, tmp_path)
    yield worker
    worker.kill()


def test_what_is_planted_is_mended(worker: Worker, store: JobStore) -> None:
    assert until(store, "ant", submit(store, "ant", "p")).state is JobState.SUCCEEDED
    assert violations(worker) == dict.fromkeys(INVARIANTS, 0.0), "all of them are shown, and none is violated"

    lost = submit(store, "ant", "nobody-serves-it")
    store.redis.zrem("dq:ready:nobody-serves-it:ant", lost)
    eventually(lambda: store.redis.zscore("dq:ready:nobody-serves-it:ant", lost))
    store.redis.incrby("dq:queued:bee", 3)
    eventually(lambda: store.redis.get("dq:queued:bee") == "0")
    counted = eventually(lambda: found if (found := violations(worker))["wrong_quota"] else None)
    assert {name for name, number in counted.items() if number} >= {"queued_nowhere", "wrong_quota"}
    assert "queued_nowhere" in worker.log
    assert lost in worker.log
