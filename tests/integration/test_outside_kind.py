"""A kind of another package, end to end: no file of ours knows it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema_rs import Draft202012Validator
from PIL import Image

from shared.settings import Settings
from shared.storage import ObjectStore
from shared.store.jobs import JobStore
from tests.support.packages import TOY, write_package
from tests.support.stacks import RunningStack
from tests.support.workers import Worker, submit, until

BROKEN = "raise RuntimeError('no licence found')"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """API and worker with the toy package installed, and a broken one beside it."""
    broken = write_package(tmp_path_factory.mktemp("broken"), "broken_package", BROKEN, kind="broken")
    path = f"{TOY}:{broken}"
    running = RunningStack(tmp_path_factory.mktemp("stack"), kinds="probe,toy,broken", PYTHONPATH=path).wait_ready()
    yield running
    running.stop()


@pytest.fixture
def client(stack: RunningStack) -> Iterator[httpx.Client]:
    """With the development key."""
    with stack.client() as client:
        yield client


def run(stack: RunningStack, *words: str, code: int = 0) -> str:
    """What the command line prints; it has never heard of the kind."""
    command = [str(Path(sys.executable).parent / "dreamqueue"), *words, "--url", stack.url, "--key", stack.key]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_job_of_it_makes_its_picture(stack: RunningStack, client: httpx.Client) -> None:
    reply = client.post("/v1/jobs", json={"kind": "toy", "input": {"prompts": ["red", "blue"], "size": 24}})
    assert reply.status_code == 202, reply.text
    assert isinstance(reply.json()["input"]["seed"], int), "drawn, as for every kind that makes pictures"
    job = stack.finished(client, reply.json()["id"])
    assert job["state"] == "succeeded"
    assert [picture["prompt"] for picture in job["result"]["images"]] == ["red", "blue"]
    body = client.get(job["result"]["images"][1]["url"], params={"inline": 1}).content
    image = Image.open(io.BytesIO(body))
    assert (image.size, image.getpixel((3, 3))) == ((24, 24), (0, 0, 255))
    assert job["id"] in [found["id"] for found in client.get("/v1/jobs?kind=toy").json()["jobs"]]
    assert client.get("/v1/jobs?kind=probe").json()["jobs"] == []


@pytest.mark.parametrize(
    ("input_", "field", "limit"),
    [
        ({}, "input.prompts", ""),
        ({"prompts": []}, "input.prompts", "at least 1"),
        ({"prompts": ["red"], "size": 65}, "input.size", "<= 64"),
        ({"prompts": ["red"], "glitter": 1}, "input.glitter", ""),
    ],
)
def test_its_own_spec_judges_its_input(client: httpx.Client, input_: dict[str, Any], field: str, limit: str) -> None:
    reply = client.post("/v1/jobs", json={"kind": "toy", "input": input_})
    assert reply.status_code == 422
    (error,) = reply.json()["errors"]
    assert (error["field"], error["limit"]) == (field, limit)


def test_it_is_documented(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    request = {"$ref": "#/components/schemas/JobRequest", "components": document["components"]}
    validator = Draft202012Validator(request)
    example = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["examples"]["toy"]
    validator.validate(example["value"])
    assert not validator.is_valid({"kind": "toy", "input": {"prompts": ["red"], "size": 65}})
    assert "toy" in document["components"]["schemas"]["Job"]["properties"]["kind"]["enum"]
    assert client.get("/v1/workers").json()["workers"][0]["kinds"] == ["probe", "toy"]


def test_the_command_line_sends_it(stack: RunningStack, tmp_path: Path) -> None:
    run(stack, "submit", "toy", "green", "--set", "size=8", "--out", str(tmp_path))
    (picture,) = tmp_path.glob("**/*.png")
    assert Image.open(picture).getpixel((0, 0)) == (0, 128, 0)
    assert "input.prompts" in run(stack, "submit", "toy", code=2)


def test_a_worker_without_the_package_says_what_it_lacks(
    store: JobStore, objects: ObjectStore, settings: Settings, tenant: str, pool: str, tmp_path: Path
) -> None:
    worker = Worker(settings.model_copy(update={"pool": pool, "kinds": "probe"}), store, tmp_path)
    try:
        record = until(store, tenant, submit(store, tenant, pool, kind="toy", prompts=["red"]))
    finally:
        worker.stop()
    assert record.error is not None
    assert (record.error["code"], record.error["message"]) == (
        "model_unavailable", "no worker of this pool serves 'toy' jobs",
    )  # fmt: skip


def test_a_broken_package_is_a_line_in_each_log_and_a_kind_less(stack: RunningStack, client: httpx.Client) -> None:
    reply = client.post("/v1/jobs", json={"kind": "broken", "input": {}})
    assert reply.status_code == 422
    assert reply.json()["errors"][0]["field"] == "kind"
    assert "'toy'" in reply.json()["errors"][0]["limit"]
    for name in ("api", "worker-1"):
        lines = (stack.data / "logs" / f"{name}.log").read_text().splitlines()
        said = [json.loads(line) for line in lines if "kind left out" in line]
        assert said, name
        assert {(line["kind"], line["package"]) for line in said} == {("broken", "broken_package")}
        assert all("no licence found" in line["error"] for line in said)
