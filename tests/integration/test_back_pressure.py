"""Redis full, frozen or gone: callers get 503 and Retry-After in time, nothing is half written, running jobs end."""

from __future__ import annotations

import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.http.auth import SCOPES, KeyStore
from shared.errors import StoreUnavailable
from shared.records.job import Claim, JobState, NewJob, SavedRun
from shared.settings import Settings
from shared.storage import ObjectStore
from shared.store.audit import Audit
from shared.store.jobs import JobStore
from shared.store.redis import connect
from shared.store.workers import WorkerInfo
from tests.support.api import ApiServer
from tests.support.polling import PATIENCE_S, eventually
from tests.support.servers import RedisServer
from tests.support.workers import Worker, submit, until

pytestmark = pytest.mark.integration

TENANT, POOL = "ant", "p"
ERROR = {"code": "probe_failed", "message": "no", "retryable": True}
PROBE = {"kind": "probe", "input": {}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    yield server
    server.process.signal(signal.SIGCONT)
    server.process.stop()


@pytest.fixture
def own(settings: Settings, server: RedisServer) -> Settings:
    return settings.model_copy(update={"redis_url": server.url, "pool": POOL, "kinds": "probe", "lease_s": 6.0})


@pytest.fixture
def store(own: Settings) -> Iterator[JobStore]:
    client = connect(own)
    yield JobStore(client, own)
    client.close()


def fill(store: JobStore) -> None:
    """From now on every write that needs memory is refused."""
    store.redis.config_set("maxmemory", 1)


def free(store: JobStore) -> None:
    store.redis.config_set("maxmemory", 0)


def content(store: JobStore) -> dict[str, bytes]:
    """Every key with its value, as Redis would save it."""
    raw = connect(store._settings)  # its own client: DUMP's answer is no text
    raw.connection_pool.connection_kwargs["decode_responses"] = False
    return {key.decode(): raw.dump(key) for key in raw.scan_iter("*")}


def claimed(store: JobStore) -> Claim:
    claim = store.claim(POOL, "w")
    assert claim is not None
    return claim


def new(**fields: Any) -> NewJob:
    return NewJob(str(uuid.uuid4()), TENANT, "probe", POOL, {"kind": "probe"}, deadline_s=3600, **fields)


REFUSED: dict[str, Callable[[JobStore, Claim, str], object]] = {
    "submit": lambda store, _claim, _queued: store.submit(new(idempotency_key="k", fingerprint="f")),
    "pause": lambda store, _claim, queued: store.pause(TENANT, queued),
    "pause, running": lambda store, claim, _queued: store.pause(TENANT, claim.id),
    "progress": lambda store, claim, _queued: store.progress(claim, {"fraction": 0.5}),
}
LET_THROUGH: dict[str, Callable[[JobStore, Claim, str], object]] = {
    "claim": lambda store, _claim, _queued: store.claim(POOL, "w"),
    "beat": lambda store, claim, _queued: store.beat([claim]),
    "commit": lambda store, claim, _queued: store.commit(claim, {"v": 1}, {}),
    "fail": lambda store, claim, _queued: store.fail(claim, ERROR, delay_s=60),
    "fail for good": lambda store, claim, _queued: store.fail(claim, {**ERROR, "retryable": False}),
    "release": lambda store, claim, _queued: store.release(claim),
    "abandon": lambda store, claim, _queued: store.abandon(claim),
    "snapshot": lambda store, claim, _queued: store.note_snapshot(claim, SavedRun("k", 1, 1, "0" * 64)),
    "cancel": lambda store, _claim, queued: store.cancel(TENANT, queued),
    "reap": lambda store, _claim, _queued: store.sweeps.reap(),
    "promote": lambda store, _claim, _queued: store.sweeps.promote(),
    "announce": lambda store, _claim, _queued: store.fleet.announce(
        WorkerInfo("w", POOL, ["probe"], [], "cpu", 1, 0, "ready", "0", 1)
    ),
}


@pytest.mark.parametrize("call", REFUSED)
def test_a_full_store_refuses_as_a_whole(call: str, store: JobStore) -> None:
    store.submit(new())
    claim, queued = claimed(store), store.submit(new()).id
    fill(store)
    before = content(store)
    with pytest.raises(StoreUnavailable, match="is full"):
        REFUSED[call](store, claim, queued)
    assert content(store) == before, "nothing is half written"
    free(store)
    REFUSED[call](store, claim, queued)
    assert content(store) != before


@pytest.mark.parametrize("call", LET_THROUGH)
def test_what_ends_moves_or_keeps_a_job_goes_through(call: str, store: JobStore, own: Settings) -> None:
    store.submit(new())
    claim, queued = claimed(store), store.submit(new()).id
    if call == "reap":
        store.redis.zadd("dq:leases", {f"{TENANT}:{claim.id}": 1})
    if call == "promote":
        store.redis.delete(f"dq:bell:{POOL}")
    fill(store)
    before = content(store)
    LET_THROUGH[call](store, claim, queued)
    assert content(store) != before
    found = [violation for batch in Audit(store.redis, own).sweep({POOL: 10}) for violation in batch]
    assert found == []


def test_jobs_end_while_the_store_is_full(
    own: Settings, store: JobStore, objects: ObjectStore, tmp_path: Path
) -> None:  # objects: the bucket must be there
    worker = Worker(own, store, tmp_path)
    running = [submit(store, TENANT, POOL, steps=40, step_s=0.1) for _ in range(2)]
    for job_id in running:
        until(store, TENANT, job_id, "running")
    waiting = submit(store, TENANT, POOL, steps=2)
    fill(store)
    for job_id in [*running, waiting]:
        record = until(store, TENANT, job_id)
        assert (record.state, record.attempt) == (JobState.SUCCEEDED, 1)
    assert worker.info() is not None, "it is still seen to live"
    with pytest.raises(StoreUnavailable):
        submit(store, TENANT, POOL)
    free(store)
    assert until(store, TENANT, submit(store, TENANT, POOL)).state is JobState.SUCCEEDED
    assert worker.stop() == 0


class TestOverHttp:
    """A live API on that Redis."""

    @pytest.fixture
    def http(
        self, own: Settings, store: JobStore, objects: ObjectStore, tmp_path: Path
    ) -> Iterator[httpx.Client]:  # objects: the bucket must be there
        api = ApiServer(own.model_copy(update={"worker_metrics_port": 0}), tmp_path)
        key = KeyStore(store.redis).create(TENANT, sorted(SCOPES))
        with httpx.Client(base_url=api.url, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE_S) as client:
            yield client
        api.process.stop()

    @staticmethod
    def refused(answer: httpx.Response) -> None:
        assert answer.status_code == 503
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["code"] == "store_unavailable"
        assert answer.json()["retryable"]
        assert int(answer.headers["Retry-After"]) > 0

    def test_full(self, http: httpx.Client, store: JobStore) -> None:
        job = http.post("/v1/jobs", json=PROBE).json()
        fill(store)
        self.refused(http.post("/v1/jobs", json=PROBE))
        assert http.get(f"/v1/jobs/{job['id']}").status_code == 200, "reading goes on"
        assert http.post(f"/v1/jobs/{job['id']}/cancel").status_code == 200, "so does what makes room"
        free(store)
        assert http.post("/v1/jobs", json=PROBE).status_code == 202
        assert len(http.get("/v1/jobs").json()["jobs"]) == 2

    def test_frozen(self, http: httpx.Client, server: RedisServer) -> None:
        assert http.post("/v1/jobs", json=PROBE).status_code == 202
        again = {"Idempotency-Key": "same"}
        server.process.signal(signal.SIGSTOP)
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(http.post("/v1/jobs", json=PROBE, headers=again))

        callers = [threading.Thread(target=ask) for _ in range(6)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(PATIENCE_S)
        assert len(answers) == len(callers), "while it is still frozen"
        for answer in answers:
            self.refused(answer)
        assert http.get("/healthz").status_code == 200
        server.process.signal(signal.SIGCONT)
        answer = eventually(
            lambda: reply if (reply := http.post("/v1/jobs", json=PROBE, headers=again)).status_code < 500 else None
        )
        assert answer.status_code == 202
        assert len(http.get("/v1/jobs").json()["jobs"]) == 2, "however many of the six had arrived, it is one job"

    def test_gone_and_back(self, http: httpx.Client, server: RedisServer) -> None:
        job = http.post("/v1/jobs", json=PROBE).json()
        server.kill()
        self.refused(http.post("/v1/jobs", json=PROBE))
        self.refused(http.get(f"/v1/jobs/{job['id']}"))
        server.start()
        assert eventually(lambda: http.get(f"/v1/jobs/{job['id']}").status_code == 200)
        assert http.post("/v1/jobs", json=PROBE).status_code == 202
