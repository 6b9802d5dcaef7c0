"""What only a real server shows: many waits at once, bodies without a length, Redis dying, metrics over processes."""

from __future__ import annotations

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from api.client import DreamqueueClient
from deploy.local.processes import wait_until
from shared.settings import Settings
from shared.storage import ObjectStore
from shared.store.jobs import JobStore
from shared.store.redis import connect
from tests.support.api import DALLE, ApiServer, StandIn, new_key
from tests.support.polling import PATIENCE_S, eventually
from tests.support.servers import RedisServer

WAITERS = 200


def test_many_waits_and_streams_at_once(
    client: DreamqueueClient, live_api: ApiServer, key: str, live_worker: StandIn
) -> None:
    job = client.submit("dalle", DALLE["input"])
    claim = live_worker.claim(job.id)
    limits = httpx.Limits(max_connections=WAITERS + 10)
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=live_api.url, headers=headers, limits=limits, timeout=PATIENCE_S) as http:

        def wait(number: int) -> str:
            if number % 2:
                return str(http.get(f"/v1/jobs/{job.id}", params={"wait": 50}).json()["state"])
            return "succeeded" if '"state":"succeeded"' in http.get(f"/v1/jobs/{job.id}/events").text else "cut"

        def waiting() -> int:
            text = http.get("/metrics").text
            return int(float(re.findall(r"^dreamqueue_http_requests_in_flight (\S+)", text, re.M)[0]))

        with ThreadPoolExecutor(WAITERS) as pool:
            answers = [pool.submit(wait, number) for number in range(WAITERS)]
            eventually(lambda: waiting() >= WAITERS, what="everybody waits")
            assert http.get("/healthz").status_code == 200
            live_worker.finish(claim)
            assert {answer.result() for answer in answers} == {"succeeded"}


def test_a_body_without_length_is_bounded_too(live_api: ApiServer, key: str, settings: Settings) -> None:
    def endless() -> object:
        for _ in range(settings.body_max_bytes // 65536 + 4):
            yield b" " * 65536

    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    answer = httpx.post(f"{live_api.url}/v1/jobs", content=endless(), headers=headers)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large"), answer.text


def test_what_is_not_http_hurts_nobody(live_api: ApiServer) -> None:
    for junk in (b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", live_api.port), timeout=PATIENCE_S) as conn:
            conn.sendall(junk)
            conn.shutdown(socket.SHUT_WR)
            assert b"Traceback" not in conn.recv(65536)
    assert httpx.get(f"{live_api.url}/healthz").status_code == 200
    assert "MonkeyPatchWarning" not in live_api.log


def test_metrics_are_summed_over_processes(live_api: ApiServer) -> None:
    def count() -> float:
        text = httpx.get(f"{live_api.url}/metrics").text
        found = re.findall(r'http_requests_total\{.*route="/healthz",status="200"\} (\S+)', text)
        return float(found[0]) if found else 0.0

    before = count()
    for _ in range(20):
        httpx.get(f"{live_api.url}/healthz")  # each on its own connection, so both processes get some
    assert count() == before + 20


@pytest.mark.slow
def test_redis_dies_and_nothing_accepted_is_lost(
    settings: Settings, objects: ObjectStore, tmp_path: Path, tenant: str
) -> None:
    redis_server = RedisServer(tmp_path / "redis")
    own = settings.model_copy(update={"redis_url": redis_server.url, "redis_timeout_s": 1.0})
    store_client = connect(own)
    api_server = ApiServer(own, tmp_path)
    try:
        key = new_key(JobStore(store_client, own), tenant)
        http = httpx.Client(base_url=api_server.url, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE_S)
        accepted = [http.post("/v1/jobs", json=DALLE).json()["id"] for _ in range(20)]
        redis_server.kill()
        refused = http.post("/v1/jobs", json=DALLE)
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert int(refused.headers["Retry-After"]) > 0
        assert http.get("/readyz").status_code == 503
        assert http.get("/healthz").status_code == 200
        redis_server.start()
        wait_until(lambda: http.get("/readyz").status_code == 200, api_server.process, PATIENCE_S)
        assert {http.get(f"/v1/jobs/{job_id}").json()["state"] for job_id in accepted} == {"queued"}
        assert {job["id"] for job in http.get("/v1/jobs").json()["jobs"]} >= set(accepted)
        http.close()
    finally:
        api_server.process.stop()
        store_client.close()
        redis_server.process.stop()


@pytest.mark.slow
def test_the_api_dies_under_a_watcher_that_misses_nothing(
    settings: Settings, objects: ObjectStore, store: JobStore, tmp_path: Path, tenant: str, pool: str
) -> None:
    own = settings.model_copy(update={"pool": pool})
    worker = StandIn(store, objects, pool)
    server = ApiServer(own, tmp_path)
    with DreamqueueClient(server.url, new_key(store, tenant)) as client:
        job = client.submit("dalle", DALLE["input"])
        events = client.watch(job.id)
        assert next(events).type == "queued"
        server.process.kill()
        claim = worker.claim(job.id)
        server = ApiServer(own, tmp_path, port=server.port)
        try:
            worker.finish(claim)
            assert [event.type for event in events] == ["started", "finished"], "each once, none missing"
            assert client.get(job.id).state == "succeeded"
        finally:
            server.process.stop()
