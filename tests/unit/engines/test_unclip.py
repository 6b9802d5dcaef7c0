"""The unclip engine on tiny models with random weights: what it promises, not what it draws."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from shared.errors import Cancelled, Draining, ModelUnavailable, NonFinite
from shared.specs.kinds import image_refs, parse_spec
from tests.models.conftest import TINY_VQGAN
from tests.support.tiny_models import write_tiny_models
from tests.unit.engines.test_torch_engines import Recorder
from worker.checkpoints.loading import CONFIG, WEIGHTS, save_model
from worker.checkpoints.registry import digest
from worker.engines.base import Output, StoppedWithOutput, Task
from worker.engines.generation.unclip import UnclipEngine
from worker.engines.options import EngineOptions
from worker.engines.registry import build_engines
from worker.models.vqgan.vqgan import VQGAN

REF = "img_" + "0" * 64
STEPS = 4 + 6  # the tiny model's, prior and decoder
THIRD_OF_SECOND = 2 * 4 + 6 + 3  # four rows, two at a time: progress to the third step of the second pair's decoder


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> UnclipEngine:
    folder = write_tiny_models(tmp_path_factory.mktemp("weights"))
    options = EngineOptions(device="cpu", cpu_threads=1, weights_dir=str(folder))
    engine = build_engines(["unclip"], options)["unclip"]
    assert isinstance(engine, UnclipEngine)
    engine.load()
    return engine


Run = Callable[..., Output]


@pytest.fixture
def run(engine: UnclipEngine) -> Run:
    def run(context: Recorder | None = None, colour: str = "red", **spec: Any) -> Output:
        parsed = parse_spec("unclip", spec)
        images = {ref: Image.new("RGB", (20, 14), colour) for ref in image_refs(parsed)}
        return engine.run(Task(parsed, images), context or Recorder())

    return run


@contextmanager
def rows_at_once(engine: UnclipEngine, rows: int) -> Iterator[None]:
    device = engine._device
    device.rows, kept = rows, device.rows
    try:
        yield
    finally:
        device.rows = kept


def drawn(output: Output) -> dict[tuple[str, int], bytes]:
    return {(picture.prompt, picture.index): picture.image.tobytes() for picture in output.pictures}


def test_the_best_of_each_prompt_come_first(run: Run) -> None:
    every = run(prompts=["a tree", "a red apple"], n=6, seed=0)
    assert [picture.prompt for picture in every.pictures] == ["a tree"] * 6 + ["a red apple"] * 6
    for first in (0, 6):
        scores = [picture.score for picture in every.pictures[first : first + 6] if picture.score is not None]
        assert scores == sorted(scores, reverse=True)
        assert len(scores) == 6
    kept = run(prompts=["a tree", "a red apple"], n=6, keep=2, seed=0)
    wanted = [(p.prompt, p.index) for p in (*every.pictures[:2], *every.pictures[6:8])]
    assert [(picture.prompt, picture.index) for picture in kept.pictures] == wanted


def test_alone_or_among_many_a_picture_is_the_same(run: Run, engine: UnclipEngine) -> None:
    many = drawn(run(prompts=["a tree", "a red apple"], n=5, seed=0))
    assert len(set(many.values())) == 10
    few = drawn(run(prompts=["a red apple"], n=2, seed=0))
    assert few == {key: many[key] for key in few}
    with rows_at_once(engine, 3):
        assert drawn(run(prompts=["a tree", "a red apple"], n=5, seed=0)) == many
    assert drawn(run(prompts=["a red apple"], n=2, seed=1)) != few


def test_progress_counts_every_step_of_every_picture(run: Run, engine: UnclipEngine) -> None:
    recorder = Recorder()
    with rows_at_once(engine, 2):
        run(recorder, prompts=["a tree"], n=3, seed=0, preview_every=2)
    taken = [*range(2, 9, 2), *range(9, 13)], [*range(14, 25, 2), *range(25, 31)]  # two rows at a time, then the third
    assert recorder.steps == [
        (stage, step, 3 * STEPS) for stage, steps in zip(("prior", "sample"), taken, strict=True) for step in steps
    ]
    assert recorder.previews == [((16, 8), 2), ((16, 8), 4), ((8, 8), 8), ((8, 8), 10)]


def test_a_cancel_stops_at_the_next_step(run: Run) -> None:
    for stop_at in (2, 7):  # in the prior, in the decoder
        recorder = Recorder(stop_at=stop_at)
        with pytest.raises(Cancelled):
            run(recorder, prompts=["a tree"], n=3, seed=0)
        assert len(recorder.steps) == stop_at


def test_finished_batches_survive_a_cancel(run: Run, engine: UnclipEngine) -> None:
    with rows_at_once(engine, 2), pytest.raises(StoppedWithOutput) as stop:
        run(Recorder(stop_at=THIRD_OF_SECOND), prompts=["a tree"], n=4, seed=0)
    assert isinstance(stop.value.cause, Cancelled)
    assert {picture.index for picture in stop.value.output.pictures} == {0, 1}


def test_a_job_that_goes_back_to_the_queue_leaves_no_output(run: Run, engine: UnclipEngine) -> None:
    class Leaving(Recorder):
        def check(self) -> None:
            if len(self.steps) >= THIRD_OF_SECOND:
                raise Draining("the worker stops")

    with rows_at_once(engine, 2), pytest.raises(Draining):
        run(Leaving(), prompts=["a tree"], n=4, seed=0)


def test_a_picture_is_varied_without_the_prior(run: Run) -> None:
    recorder = Recorder()
    output = run(recorder, image=REF, n=3, seed=0)
    assert {stage for stage, _, _ in recorder.steps} == {"sample"}
    assert recorder.steps[-1] == ("sample", 18, 18)
    assert [picture.prompt for picture in output.pictures] == [REF] * 3
    assert all(picture.score is not None for picture in output.pictures)
    assert len(set(drawn(output).values())) == 3
    assert drawn(run(image=REF, n=3, seed=0, colour="blue")) != drawn(output)


def test_a_prompt_ranks_the_variations_and_draws_nothing(run: Run) -> None:
    plain = {p.index: p for p in run(image=REF, n=3, seed=0).pictures}
    ranked = {p.index: p for p in run(image=REF, prompts=["a tree"], n=3, seed=0).pictures}
    assert {p.prompt for p in ranked.values()} == {"a tree"}
    assert all(ranked[index].image.tobytes() == plain[index].image.tobytes() for index in plain)
    assert all(ranked[index].score != plain[index].score for index in plain)


def test_parameters_are_resolved(run: Run) -> None:
    output = run(prompts=["a tree"], n=2, prior_steps=3, guidance=1.5)
    own = {name: output.parameters[name] for name in ("keep", "prior_steps", "decoder_steps", "guidance")}
    assert own == {"keep": 2, "prior_steps": 3, "decoder_steps": 6, "guidance": 1.5}
    assert output.parameters["prior_guidance"] == 1.0
    assert output.parameters["seed"] == output.pictures[0].seed
    assert [model.id for model in output.models] == ["emoji-unclip", "emoji-vqgan", "emoji-clip"]
    assert all(len(model.sha256) == 64 for model in output.models)
    assert set(output.timings) == {"prior_s", "sample_s", "decode_s", "rank_s"}
    assert all(seconds > 0 for seconds in output.timings.values())


def test_steps_and_guidance_change_the_picture(run: Run) -> None:
    plain = drawn(run(prompts=["a tree"], n=1, seed=0))
    for changed in ({"decoder_steps": 2}, {"guidance": 8.0}, {"prior_steps": 1}, {"prior_guidance": 8.0}):
        assert drawn(run(prompts=["a tree"], n=1, seed=0, **changed)) != plain, changed


@pytest.mark.parametrize("part", ["prior", "decoder"])
def test_what_is_no_number_has_a_name(run: Run, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    owner = "worker.models.unclip.unclip." + part.capitalize()

    def broken(_self: Any, noisy: torch.Tensor, *_rest: Any) -> torch.Tensor:
        out = torch.zeros_like(noisy)
        out[1:2] = math.nan  # none where a single row is measured for its memory
        return out

    monkeypatch.setattr(owner + ".forward", broken)
    with pytest.raises(NonFinite, match=f"{part} made NaN or infinity at step 1, in candidate 1 of 'a tree'"):
        run(prompts=["a tree"], n=3, seed=0, guidance=1, prior_guidance=1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "give prompts"),
        ({"image": REF, "prompts": ["a", "b"]}, "one prompt"),
        ({"prompts": ["a"], "n": 2, "keep": 3}, "keep is 3"),
        ({"prompts": ["a"] * 3, "n": 200}, "600"),
        ({"prompts": ["a"], "decoder_steps": 0}, "decoder_steps"),
        ({"prompts": ["a"], "prior_guidance": 0.5}, "prior_guidance"),
        ({"image": "cat.png"}, "image"),
    ],
)
def test_specs_that_mean_nothing_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        parse_spec("unclip", spec)


def registry_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "registry.json").read_text())
    return found


def test_a_worker_without_the_model_starts_and_says_so(tmp_path: Path) -> None:
    write_tiny_models(tmp_path)
    registry = registry_of(tmp_path)
    registry["models"] = [model for model in registry["models"] if model["family"] != "unclip"]
    (tmp_path / "registry.json").write_text(json.dumps(registry))
    engine = build_engines(["unclip"], EngineOptions(device="cpu", weights_dir=str(tmp_path)))["unclip"]
    assert engine.load() == []
    with pytest.raises(ModelUnavailable, match="emoji-unclip"):
        engine.run(Task(parse_spec("unclip", {"prompts": ["a tree"]}), {}), Recorder())


def test_models_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    write_tiny_models(tmp_path)
    save_model(VQGAN(TINY_VQGAN), tmp_path / "emoji-vqgan", torch.float32)  # 8x8 codes
    registry = registry_of(tmp_path)
    (row,) = [model for model in registry["models"] if model["family"] == "vqgan"]
    row["sha256"] = {name: digest(tmp_path / "emoji-vqgan" / name) for name in (CONFIG, WEIGHTS)}
    (tmp_path / "registry.json").write_text(json.dumps(registry))
    engine = build_engines(["unclip"], EngineOptions(device="cpu", weights_dir=str(tmp_path)))["unclip"]
    with pytest.raises(ModelUnavailable, match="emoji-unclip"):
        engine.load()
