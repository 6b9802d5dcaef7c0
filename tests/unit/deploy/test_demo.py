"""The demo, before a stand-in of the client: what it asks for, what it shows, when it gives up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from PIL import Image

from api.client.job import Event, Job
from deploy.local import demo
from tests.support.api import picture

KEEP = {"dalle": 4, "unclip": 2, "vqgan_clip": 1}


class StandIn:
    """Every job succeeds at once, but those of the kind `fails`; every picture is taken for an apple."""

    fails = ""

    def __init__(self, *_: object) -> None:
        self._jobs: dict[str, Job] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, kind: str, input: dict[str, Any]) -> Job:
        state = "failed" if kind == self.fails else "succeeded"
        images = [{"name": f"{n}.png", "score": 0.3, "seed": 1, "index": n} for n in range(KEEP.get(kind, 0))]
        labels = [{"label": "a red apple", "probability": 0.9}]
        found = [{"image": ref, "labels": labels} for ref in input.get("images", [])]
        job_id = f"job-{len(self._jobs)}"
        result = {"images": images, "files": [], "classifications": found}
        self._jobs[job_id] = Job({"id": job_id, "kind": kind, "state": state, "error": {"code": "x"}, "result": result})
        return self._jobs[job_id]

    def watch(self, job_id: str) -> Iterator[Event]:
        yield Event("1", "finished", {"state": self._jobs[job_id].state})

    def wait(self, job_id: str, *, timeout_s: float) -> Job:
        return self._jobs[job_id]

    def download_all(self, job: Job, folder: Path) -> list[Path]:
        folder.mkdir(parents=True)
        paths = [folder / image["name"] for image in job.images]
        for path in paths:
            path.write_bytes(picture())
        return paths


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DreamqueueClient", StandIn)


def test_every_prompt_gets_a_table_and_a_row_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.run_demo("http://x", "key", tmp_path)
    out = capsys.readouterr().out
    assert all(prompt in out for prompt in demo.PROMPTS)
    assert "7 of 35" in out  # the apple's own pictures
    with Image.open(tmp_path / "demo.png") as sheet:
        wide, high = sheet.size
    assert wide > 7 * 128
    assert high > len(demo.PROMPTS) * 128


def test_a_job_that_fails_ends_the_demo_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "fails", "unclip")
    with pytest.raises(demo.DemoFailed, match="unclip: a red apple"):
        demo.run_demo("http://x", "key", tmp_path)
