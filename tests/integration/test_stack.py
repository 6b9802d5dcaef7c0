"""The embedded stack: what starts, what stops, and what survives kill -9."""

from __future__ import annotations

import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.polling import PATIENCE_S, eventually
from tests.support.stacks import RunningStack, is_alive

LEASE_S = 3.0
SHORT = {"DREAMQUEUE_LEASE_S": str(LEASE_S), "DREAMQUEUE_BEAT_S": "0.5"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One stack that the fault tests share; every child comes back by itself."""
    running = RunningStack(tmp_path_factory.mktemp("stack"), **SHORT).wait_ready()
    yield running
    running.stop()


@pytest.fixture
def client(stack: RunningStack) -> Iterator[httpx.Client]:
    """With the development key."""
    with stack.client() as client:
        yield client


def submit(client: httpx.Client, **spec: Any) -> str:
    """The id of an accepted probe."""
    reply = client.post("/v1/jobs", json={"kind": "probe", "input": spec})
    assert reply.status_code == 202, reply.text
    return str(reply.json()["id"])


def state_is(client: httpx.Client, job_id: str, state: str) -> bool:
    """One look at a job."""
    return bool(client.get(f"/v1/jobs/{job_id}").json()["state"] == state)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_two_stacks_run_side_by_side_and_stop_only_what_they_started(tmp_path: Path, number: int) -> None:
    one, two = RunningStack(tmp_path / "one"), RunningStack(tmp_path / "two")
    try:
        one.wait_ready()
        two.wait_ready()
        ours, others = one.pids(), two.pids()
        assert set(ours) == {"redis", "objects", "api", "worker-1"}
        assert one.stop(number) == 0
        assert not any(is_alive(pid) for pid in ours.values())
        assert all(is_alive(pid) for pid in others.values())
        assert not list((tmp_path / "one" / "run").glob("*.pid"))
        with two.client() as client:
            assert two.finished(client, submit(client))["state"] == "succeeded"
    finally:
        for running in (one, two):
            running.stop(signal.SIGTERM)


def test_the_key_is_private_and_needed(stack: RunningStack) -> None:
    assert stat.S_IMODE((stack.data / "api-key").stat().st_mode) == 0o600
    assert httpx.get(f"{stack.url}/v1/jobs").status_code == 401
    assert any(stack.key in line for line in stack.said)


def test_a_taken_port_and_a_folder_in_use_are_refused_clearly(stack: RunningStack, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        other = RunningStack(tmp_path, port=taken.getsockname()[1])
        said, _ = other.child.communicate(timeout=PATIENCE_S)
    assert other.child.returncode == 1
    assert "is taken; choose another one: PORT=" in said
    other = RunningStack(stack.data)
    said, _ = other.child.communicate(timeout=PATIENCE_S)
    assert other.child.returncode == 1
    assert "another stack runs on" in said


def test_kill_9_of_the_worker_in_mid_job(stack: RunningStack, client: httpx.Client) -> None:
    job_id = submit(client, steps=40, step_s=0.1, write_bytes=1000)
    eventually(lambda: state_is(client, job_id, "running"), what="running")
    stack.kill("worker-1")
    job = stack.finished(client, job_id)
    assert job["state"] == "succeeded"
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["lost", "succeeded"]
    assert job["attempt"] == 2
    (artifact,) = job["result"]["files"]
    assert len(client.get(artifact["url"], params={"inline": 1}).content) == 1000


def test_kill_9_of_the_api_and_of_redis_loses_nothing_accepted(stack: RunningStack, client: httpx.Client) -> None:
    accepted: list[str] = []
    refused = 0
    for round_number, victim in enumerate(["api", "redis", "api", "redis"]):
        for number in range(20):
            if number == 10:
                stack.kill(victim)
            try:
                accepted.append(submit(client, steps=1, step_s=0.01))
            except (httpx.HTTPError, AssertionError):
                refused += 1
        eventually(lambda: ready(client), what=f"ready again after {victim} ({round_number})")
    states = {stack.finished(client, job_id)["state"] for job_id in accepted}
    assert states == {"succeeded"}
    assert len(accepted) >= 40
    assert len(set(accepted)) == len(accepted)


def ready(client: httpx.Client) -> bool:
    """The API serves and a worker is there."""
    try:
        return client.get("/readyz").status_code == 200 and any(
            pool["ready_workers"] for pool in client.get("/v1/pools").json()["pools"]
        )
    except (httpx.HTTPError, KeyError):
        return False
