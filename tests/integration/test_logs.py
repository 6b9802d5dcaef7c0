"""One request can be followed by its id, from the HTTP answer to the worker's log and to the job that follows."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.records.job import NewJob
from shared.settings import Settings
from shared.storage import ObjectStore
from shared.store.jobs import JobStore
from tests.support.api import ApiServer, new_key
from tests.support.polling import eventually
from tests.support.workers import Worker, until

pytestmark = pytest.mark.integration


@pytest.fixture
def own(settings: Settings, pool: str) -> Settings:
    """A pool of its own, logs as machines read them."""
    return settings.model_copy(update={"pool": pool, "log_format": "json", "access_log": True, "kinds": "probe"})


@pytest.fixture
def api(own: Settings, objects: ObjectStore, tmp_path: Path) -> Iterator[ApiServer]:
    """An API that logs its requests."""
    server = ApiServer(own, tmp_path)
    yield server
    server.process.stop()


def lines(path: Path, event: str, **fields: str) -> list[dict[str, Any]]:
    """The log's lines of that event with those fields."""
    found = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
    return [line for line in found if line["event"] == event and fields.items() <= line.items()]


def test_a_request_id_leads_from_the_answer_to_the_workers_log(
    api: ApiServer, own: Settings, store: JobStore, tenant: str, tmp_path: Path
) -> None:
    request_id = f"ask-{uuid.uuid4().hex[:8]}"
    headers = {"Authorization": f"Bearer {new_key(store, tenant)}", "X-Request-ID": request_id}
    answer = httpx.post(f"{api.url}/v1/jobs?secret=1", json={"kind": "probe", "input": {}}, headers=headers)
    assert (answer.status_code, answer.headers["X-Request-ID"]) == (202, request_id)
    job_id = answer.json()["id"]
    assert store.get(tenant, job_id).request_id == request_id

    (accepted,) = lines(api.process.log_path, "job accepted", request_id=request_id)
    about = {name: accepted[name] for name in ("job_id", "kind", "tenant", "pool")}
    assert about == {"job_id": job_id, "kind": "probe", "tenant": tenant, "pool": own.pool}

    def requested() -> list[dict[str, Any]]:
        return lines(api.process.log_path, "request", request_id=request_id)

    (access,) = eventually(requested, within_s=10, what="the request's own line")
    assert (access["method"], access["path"], access["status"]) == ("POST", "/v1/jobs", 202)

    worker = Worker(own, store, tmp_path)
    until(store, tenant, job_id)
    assert worker.stop() == 0, worker.log
    (ended,) = lines(worker.process.log_path, "run ended", request_id=request_id)
    assert ended["job_id"] == job_id


def test_a_follow_up_carries_the_request_of_the_job_before_it(store: JobStore, tenant: str, pool: str) -> None:
    first, second = (
        NewJob(str(uuid.uuid4()), tenant, "probe", pool, {"kind": "probe"}, request_id="r") for _ in range(2)
    )
    store.submit(first)
    claim = store.claim(pool, "w")
    assert claim is not None
    assert claim.request_id == "r"
    store.commit(claim, {}, {}, follow_up=second)
    following = store.claim(pool, "w")
    assert following is not None
    assert (following.id, following.request_id) == (second.id, "r")


def test_a_job_without_a_request_has_no_id_of_one(store: JobStore, tenant: str, pool: str) -> None:
    job = NewJob(str(uuid.uuid4()), tenant, "probe", pool, {"kind": "probe"})
    store.submit(job)
    claim = store.claim(pool, "w")
    assert claim is not None
    assert (claim.request_id, store.get(tenant, job.id).request_id) == ("", "")
    store.commit(claim, {}, {})
