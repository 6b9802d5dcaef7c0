"""The Python client and the command line against a live API."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import click.testing
import httpx
import pytest

from api.client import ApiError, DreamqueueClient, Job
from api.client.cli import cli
from api.client.errors import Conflicting, InvalidRequest, Missing, NotAllowed, Unreachable, WaitTimeout
from api.client.transport import Transport
from deploy.local.servers import free_port
from shared.settings import Settings
from tests.support.api import ApiServer, StandIn, picture
from tests.support.polling import PATIENCE_S, eventually

PROMPT = {"prompts": ["a red apple"], "n": 2}


def finish_when_submitted(worker: StandIn, client: DreamqueueClient, *bodies: bytes) -> threading.Thread:
    """A worker that takes the caller's one job as soon as it is there."""

    def run() -> None:
        job = eventually(lambda: next(client.list(state="queued"), None), what="a queued job")
        claim = worker.claim(job.id)
        worker.preview(claim, 40, picture())
        worker.finish(claim, bodies)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_submit_watch_download(client: DreamqueueClient, live_worker: StandIn, tmp_path: Path) -> None:
    worker = finish_when_submitted(live_worker, client, picture("green"), picture("blue"))
    job = client.submit("dalle", PROMPT, metadata={"a": "b"})
    events = list(client.watch(job.id))
    worker.join()
    assert [event.type for event in events] == ["queued", "started", "preview", "finished"]
    job = client.wait(job.id, timeout_s=PATIENCE_S)
    assert (job.state, len(job.images)) == ("succeeded", 2)
    paths = client.download_all(job, tmp_path / "out")
    assert [path.name for path in paths] == ["1-000.png", "2-001.png"]
    assert paths[0].read_bytes() == picture("green")
    rest = list(client.watch(job.id, after=events[1].id))
    assert rest == events[2:]
    assert [event.type for event in client.watch(job.id, after=events[-1].id)] == ["finished"]


def test_every_call(client: DreamqueueClient, live_worker: StandIn, tmp_path: Path) -> None:
    job_id = uuid.uuid4()
    assert client.put(job_id, "dalle", PROMPT).id == client.put(job_id, "dalle", PROMPT).id == str(job_id)
    with pytest.raises(Conflicting):
        client.put(job_id, "dalle", {"prompts": ["other"]})
    with pytest.raises(WaitTimeout):
        client.wait(str(job_id), timeout_s=0.1)
    assert client.pause(str(job_id)).is_paused
    assert not client.resume(str(job_id)).is_paused
    assert client.cancel(str(job_id)).state == "cancelled"
    again = client.retry(str(job_id))
    assert again.data["retry_of"] == str(job_id)
    assert {job.id for job in client.list()} == {str(job_id), again.id}
    assert [job.id for job in client.list(limit=1)] == [again.id]
    file = tmp_path / "a.png"
    file.write_bytes(picture())
    image = client.upload_image(file)
    assert client.upload_image(picture()) == image
    assert client.download(f"/v1/images/{image}") == picture()
    assert client.submit("rank", {"images": [image], "prompt": "x"}, wait_s=1).state == "queued"
    live_worker.announce(["m-1", "emoji-dalle", "emoji-clip", "emoji-vqgan", "emoji-unclip"])
    assert "m-1" in [model["id"] for model in client.models()]
    assert live_worker.pool in [pool["name"] for pool in client.pools()]
    assert client.workers()


def test_errors_are_typed(live_api: ApiServer, client: DreamqueueClient) -> None:
    with pytest.raises(InvalidRequest) as refused:
        client.submit("dalle", {"prompts": ["a"], "n": 0})
    assert refused.value.errors[0]["field"] == "input.n"
    assert refused.value.request_id
    with pytest.raises(Missing):
        client.get(str(uuid.uuid4()))
    with pytest.raises(Missing):
        list(client.watch(str(uuid.uuid4())))
    with pytest.raises(NotAllowed), DreamqueueClient(live_api.url, "dq_0_x") as wrong:
        next(wrong.list())


def test_no_server_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transport, "pause", lambda *_: None)
    with DreamqueueClient(f"http://127.0.0.1:{free_port()}", "k") as client, pytest.raises(Unreachable):
        client.pools()


def test_a_cut_stream_is_taken_up_again(
    client: DreamqueueClient, live_worker: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = client.submit("dalle", PROMPT)
    claim = live_worker.claim(job.id)
    live_worker.preview(claim, 40, picture())
    whole = httpx.Response.iter_lines

    def cut(answer: httpx.Response) -> Iterator[str]:
        has_event = False
        for line in whole(answer):
            if has_event and line:
                raise httpx.ReadError("cut")
            yield line
            has_event = has_event or line.startswith("data:")

    monkeypatch.setattr(httpx.Response, "iter_lines", cut)
    monkeypatch.setattr(Transport, "pause", lambda *_: None)
    live_worker.finish(claim)
    assert [event.type for event in client.watch(job.id)] == ["queued", "started", "preview", "finished"]


def test_polling_takes_over_where_streams_do_not_come_through(
    client: DreamqueueClient, live_worker: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(_answer: httpx.Response) -> Iterator[str]:
        raise httpx.ReadError("a proxy that buffers")

    monkeypatch.setattr(httpx.Response, "iter_lines", cut)
    monkeypatch.setattr(Transport, "pause", lambda *_: None)
    job = client.submit("dalle", PROMPT)
    events = client.watch(job.id)
    assert next(events).type == "queued"
    live_worker.finish(live_worker.claim(job.id))
    assert list(events)[-1].type == "finished"


# --- the command line --------------------------------------------------------------------------------------------


@pytest.fixture
def run(live_api: ApiServer, key: str, monkeypatch: pytest.MonkeyPatch) -> object:
    """Call the command line with the environment it reads."""
    runner = click.testing.CliRunner(env={"DREAMQUEUE_URL": live_api.url, "DREAMQUEUE_API_KEY": key})
    monkeypatch.setattr(Transport, "pause", lambda *_: None)

    def call(*words: str, code: int = 0) -> click.testing.Result:
        result = runner.invoke(cli, list(words))
        assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
        return result

    return call


def test_submit_waits_shows_and_saves(run, client: DreamqueueClient, live_worker: StandIn, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    worker = finish_when_submitted(live_worker, client, picture("green"))
    result = run("submit", "dalle", "a red apple", "--n", "2", "--seed", "7", "--meta", "a=b", "--out", str(tmp_path))
    worker.join()
    assert "succeeded" in result.stdout
    assert (tmp_path / "1-000.png").read_bytes() == picture("green")
    job = next(client.list())
    assert (job.data["input"]["seed"], job.data["metadata"]) == (7, {"a": "b"})


def test_commands(run, client: DreamqueueClient, live_worker: StandIn, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "in.json").write_text(json.dumps({"temperature": 0.5}))
    text = run(
        "submit", "dalle", "x", "--json", str(tmp_path / "in.json"), "--set", "top_k=9", "--priority", "low"
    ).stdout
    job = client.get(text.strip())
    assert (job.data["input"]["temperature"], job.data["input"]["top_k"], job.data["priority"]) == (0.5, 9, "low")
    assert job.id in run("list", "--state", "queued").stdout.replace("\n", "")
    assert json.loads(run("get", job.id, "-o", "json").stdout)["id"] == job.id
    assert "paused" in run("pause", job.id).stdout
    assert "queued" in run("resume", job.id).stdout
    assert "cancelled" in run("cancel", job.id).stdout
    assert "cancelled" in run("watch", job.id, code=1).stdout
    again = run("retry", job.id).stdout.strip()
    live_worker.store.fail(live_worker.claim(again), {"code": "non_finite", "message": "NaN [red]", "retryable": False})
    assert "non_finite: NaN [red]" in run("watch", again, code=1).stdout
    (tmp_path / "a.png").write_bytes(picture())
    assert run("upload", str(tmp_path / "a.png")).stdout.startswith("img_")
    size = run("submit", "vqgan_clip", "a", "b", "--size", "64x96", "-o", "json").stdout
    assert json.loads(size)["input"]["size"] == [64, 96]
    varied = run("submit", "unclip", "--image", str(tmp_path / "a.png"), "--n", "3", "-o", "json").stdout
    assert json.loads(varied)["input"]["image"] == client.upload_image(tmp_path / "a.png")
    run("submit", "unclip", "--image", "img_1", "--image", "img_2", code=2)
    for command in ("models", "pools", "workers"):
        run(command)
        assert isinstance(json.loads(run(command, "-o", "json").stdout), list)


def test_exit_codes(run, live_api: ApiServer) -> None:  # type: ignore[no-untyped-def]
    refused = run("submit", "dalle", "x", "--n", "0", "--set", "zz=1", code=2)
    assert "input.n" in refused.stderr
    assert "input.zz: unknown field" in refused.stderr
    run("submit", "nonsense", "x", code=2)
    run("submit", "dalle", "x", "--set", "zz", code=2)
    run("get", str(uuid.uuid4()), code=4)
    run("list", "--key", "dq_0_x", code=3)
    run("list", "--url", f"http://127.0.0.1:{free_port()}", code=5)
    assert "submit" in run("--help").stdout


def test_keys_are_made_listed_and_revoked(settings: Settings, tenant: str, live_api: ApiServer) -> None:
    runner = click.testing.CliRunner(env={"DREAMQUEUE_REDIS_URL": settings.redis_url})
    text = runner.invoke(cli, ["keys", "create", tenant, "--scope", "jobs:read", "--days", "1"]).stdout.strip()
    with DreamqueueClient(live_api.url, text) as client:
        assert list(client.list()) == []
        with pytest.raises(ApiError, match="jobs:write"):
            client.submit("dalle", PROMPT)
    kid = text.split("_")[1]
    listed = runner.invoke(cli, ["keys", "list", "--tenant", tenant]).stdout
    assert kid in listed
    assert text.split("_", 2)[2] not in listed
    assert runner.invoke(cli, ["keys", "revoke", text]).exit_code == 0
    assert runner.invoke(cli, ["keys", "revoke", kid]).exit_code == 1
    assert runner.invoke(cli, ["keys", "create", "Not OK"]).exit_code == 2


def test_help_imports_neither_server_nor_models() -> None:
    import subprocess
    import sys

    code = "import sys; from api.client.cli import cli; cli(['--help'], standalone_mode=False); " + (
        "sys.exit(sorted({'torch', 'flask', 'celery', 'boto3', 'deploy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "submit" in done.stdout
    assert Job


def test_tenants_are_listed_and_weighed(settings: Settings, tenant: str, client: DreamqueueClient) -> None:
    client.submit("dalle", PROMPT)
    runner = click.testing.CliRunner(env={"DREAMQUEUE_REDIS_URL": settings.redis_url})
    assert "weight 4" in runner.invoke(cli, ["tenants", "weight", tenant, "4"]).stdout
    (line,) = [line for line in runner.invoke(cli, ["tenants", "list"]).stdout.splitlines() if tenant in line]
    assert line.split()[-2:] == ["4", "1"]
    for name, weight in ((tenant, "0"), (tenant, "11"), (tenant, "x"), ("Not OK", "1")):
        assert runner.invoke(cli, ["tenants", "weight", name, weight]).exit_code == 2
