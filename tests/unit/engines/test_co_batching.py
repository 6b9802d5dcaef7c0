"""Latents and diffusions of several jobs at once, on the real scheduler: each job ends as if it were alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL.Image import Image

from shared.errors import Draining, NonFinite, Stopped
from shared.specs.kinds import parse_spec
from tests.support.polling import PATIENCE_S
from tests.support.tiny_models import write_tiny_models
from tests.unit.engines.test_torch_engines import Recorder
from worker.engines.base import Engine, Output, Task
from worker.engines.options import EngineOptions
from worker.engines.registry import build_engines
from worker.models.vqgan_clip.rows import LatentRows
from worker.models.vqgan_clip.state import VqganClipState

LATENT: dict[str, Any] = {"size": [32, 32], "cutouts": 3, "preview_every": 2, "video": True}
JOBS: dict[str, list[dict[str, Any]]] = {
    "vqgan_clip": [
        LATENT | {"prompts": "a tree", "iterations": 8, "seed": 0},
        LATENT | {"prompts": "a red apple | fog:-0.5", "iterations": 5, "seed": 1, "learning_rate": 0.2},
        LATENT | {"prompts": "a blue heart", "iterations": 11, "seed": 2, "init_weight": 0.5},
    ],
    "unclip": [  # seven rows fit at once, so that previews show the same rows as alone
        {"prompts": ["a tree"], "n": 2, "seed": 0, "preview_every": 2},
        {"prompts": ["a red apple", "a tree"], "n": 1, "seed": 1, "decoder_steps": 9, "preview_every": 4},
        {"prompts": ["a blue heart"], "n": 3, "seed": 2, "guidance": 1.0, "prior_guidance": 3.0, "preview_every": 2},
    ],
}


class Seen(Recorder):
    """Keeps the previews; lets the others come in at the first step."""

    def __init__(self, begun: Callable[[], None] = lambda: None, **stop: Any) -> None:
        super().__init__(**stop)
        self.shown: list[tuple[int, bytes]] = []
        self._begun = begun

    def progress(self, stage: str, step: int, total: int) -> None:
        """See RunContext."""
        self._begun()
        super().progress(stage, step, total)

    def preview(self, image: Image, step: int) -> None:
        """See RunContext."""
        self.shown.append((step, image.tobytes()))


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Engine]:
    folder = write_tiny_models(tmp_path_factory.mktemp("weights"))
    options = EngineOptions(device="cpu", cpu_threads=1, weights_dir=str(folder), is_deterministic=True)
    engines = build_engines(list(JOBS), options)
    for engine in engines.values():
        engine.load()
    return engines


@pytest.fixture(autouse=True)
def _one_step_per_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engines.scheduling.device.TURN_S", 1e-6)


def everything(output: Output, seen: Seen) -> dict[str, Any]:
    pictures = [(p.prompt, p.index, p.seed, p.score, p.image.tobytes()) for p in output.pictures]
    return {"pictures": sorted(pictures), "files": output.files, "previews": seen.shown, "last": seen.steps[-1]}


def task(kind: str, spec: dict[str, Any], snapshot: bytes | None = None) -> Task:
    return Task(parse_spec(kind, spec), {}, snapshot=snapshot)


class CoBatched:
    """Jobs in threads of their own; the first lets the others begin after its first step."""

    def __init__(self, engine: Engine, kind: str, specs: list[dict[str, Any]]) -> None:
        self.results: dict[int, dict[str, Any] | BaseException] = {}
        self._begun = threading.Event()
        self._engine, self._kind, self._specs = engine, kind, specs
        self._threads = [threading.Thread(target=self._run, args=(place,)) for place in range(len(specs))]
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _run(self, place: int) -> None:
        if place:
            assert self._begun.wait(PATIENCE_S)
        seen = Seen(self._begun.set)
        try:
            self.results[place] = everything(self._engine.run(task(self._kind, self._specs[place]), seen), seen)
        except Exception as error:
            self.results[place] = error
        finally:
            self._begun.set()


@pytest.mark.parametrize("kind", JOBS)
def test_alone_or_joined_late_pictures_previews_and_video_are_the_same(engines: dict[str, Engine], kind: str) -> None:
    shared = CoBatched(engines[kind], kind, JOBS[kind]).results
    for place, spec in enumerate(JOBS[kind]):
        seen = Seen()
        assert shared[place] == everything(engines[kind].run(task(kind, spec), seen), seen), f"job {place}"
        assert len(seen.shown) >= 2


@pytest.mark.parametrize("stop_at", [1, 4, 7])
def test_from_a_snapshot_it_ends_in_the_same_picture_co_batched(engines: dict[str, Engine], stop_at: int) -> None:
    engine, (spec, *others) = engines["vqgan_clip"], JOBS["vqgan_clip"]
    whole = engine.run(task("vqgan_clip", spec), Seen())
    seen = Seen(stop_at=stop_at, cause=Draining)
    with pytest.raises(Stopped):
        engine.run(task("vqgan_clip", spec), seen)
    begun = threading.Event()
    neighbour = threading.Thread(target=engine.run, args=(task("vqgan_clip", others[1]), Seen(begun.set)))
    neighbour.start()
    assert begun.wait(PATIENCE_S)
    resumed = engine.run(task("vqgan_clip", spec, seen.offers[-1][1]()), Seen())
    neighbour.join(PATIENCE_S)
    assert [picture.image.tobytes() for picture in resumed.pictures] == [p.image.tobytes() for p in whole.pictures]
    assert resumed.files == whole.files


def test_a_job_whose_numbers_break_leaves_its_neighbours_as_they_were(
    engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = VqganClipState.schedule

    def broken(state: VqganClipState) -> Any:
        own = schedule(state)
        return own._replace(background=float("nan")) if state.seed == 1 and state.step_count == 2 else own

    whole = [
        everything(engines["vqgan_clip"].run(task("vqgan_clip", spec), seen := Seen()), seen)
        for spec in JOBS["vqgan_clip"]
    ]
    monkeypatch.setattr(VqganClipState, "schedule", broken)
    shared = CoBatched(engines["vqgan_clip"], "vqgan_clip", JOBS["vqgan_clip"]).results
    assert isinstance(shared[1], NonFinite)
    assert (shared[0], shared[2]) == (whole[0], whole[2])


def test_a_full_device_costs_no_picture(engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its time: nothing is lost of what was reached, in whatever step it happens."""
    passes, sizes = LatentRows._pass, []

    def full(rows: LatentRows, part: Any, pieces: Any) -> Any:
        sizes.append(len(part.first))
        if len(part.first) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return passes(rows, part, pieces)

    monkeypatch.setattr(LatentRows, "_pass", full)
    monkeypatch.setattr("worker.engines.generation.vqgan_clip_stepper.DETERMINISTIC_ROWS", 2)
    shared = CoBatched(engines["vqgan_clip"], "vqgan_clip", JOBS["vqgan_clip"]).results
    assert sizes[:2] == [2, 1]
    for place, spec in enumerate(JOBS["vqgan_clip"]):
        found = shared[place]
        assert isinstance(found, dict), found
        assert found["last"] == ("optimise", spec["iterations"], spec["iterations"])
