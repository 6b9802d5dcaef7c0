"""The engines that need torch, on tiny models with random weights: what they promise, not what they draw."""

from __future__ import annotations

import io
import json
import math
import pkgutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image

from shared.errors import (
    Cancelled,
    DeadlineExceeded,
    Draining,
    InvalidInput,
    LeaseLost,
    ModelUnavailable,
    NonFinite,
    Stopped,
    Yielded,
)
from shared.specs.kinds import image_refs, parse_spec
from tests.models.conftest import TINY_VQGAN
from tests.support.tiny_models import write_tiny_models
from tests.unit.worker.test_run_context import Made
from worker.checkpoints.loading import CONFIG, WEIGHTS, save_model
from worker.checkpoints.registry import digest
from worker.engines.base import Engine, Model, Output, StoppedWithOutput, Task
from worker.engines.embedding.stepper import EmbeddingStepper
from worker.engines.options import EngineOptions
from worker.engines.registry import UnknownKind, build_engines
from worker.models.clip.clip import Clip
from worker.models.vqgan.vqgan import VQGAN

REF = "img_" + "0" * 64
OTHER = "img_" + "1" * 64
KINDS = ("dalle", "vqgan_clip", "unclip", "rank", "classify", "probe")


class Recorder:
    """A monitor that remembers, and stops the run at a given call."""

    def __init__(self, stop_at: int | None = None, cause: type[Stopped] = Cancelled) -> None:
        self.steps: list[tuple[str, int, int]] = []
        self.previews: list[tuple[tuple[int, int], int]] = []
        self.offers: list[tuple[int, Callable[[], bytes]]] = []
        self.resumed_at: list[int] = []
        self._stop_at = stop_at
        self._cause = cause

    def check(self) -> None:
        if self._stop_at is not None and len(self.steps) >= self._stop_at:
            raise self._cause("told to stop")

    def progress(self, stage: str, step: int, total: int) -> None:
        self.steps.append((stage, step, total))
        self.check()

    def preview(self, image: Image.Image, step: int) -> None:
        self.previews.append((image.size, step))

    def snapshot(self, step: int, make: Callable[[], bytes]) -> None:
        self.offers.append((step, make))

    def resumed(self, step: int) -> None:
        self.resumed_at.append(step)


@pytest.fixture(scope="module")
def steps() -> list[str]:
    return []


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> dict[str, Engine]:
    folder = write_tiny_models(tmp_path_factory.mktemp("weights"))
    options = EngineOptions(
        device="cpu", cpu_threads=1, weights_dir=str(folder), on_step=lambda kind, _seconds: steps.append(kind)
    )
    engines = build_engines(KINDS, options)
    for engine in set(engines.values()):
        engine.load()
    return engines


Run = Callable[..., Output]


@pytest.fixture
def run(engines: dict[str, Engine]) -> Run:
    def run(kind: str, context: Recorder | None = None, snapshot: bytes | None = None, **spec: Any) -> Output:
        parsed = parse_spec(kind, spec)
        colours = iter(("red", "blue", "green"))
        images = {ref: Image.new("RGB", (20, 14), next(colours)) for ref in image_refs(parsed)}
        return engines[kind].run(Task(parsed, images, snapshot=snapshot), context or Recorder())

    return run


class TestDalle:
    def test_the_best_of_each_prompt_come_first(self, run: Run) -> None:
        output = run("dalle", prompts=["a tree", "a red apple"], n=6, keep=2, seed=0)
        assert [picture.prompt for picture in output.pictures] == ["a tree"] * 2 + ["a red apple"] * 2
        every = run("dalle", prompts=["a tree", "a red apple"], n=6, seed=0)
        for first in (0, 6):
            scores = [picture.score for picture in every.pictures[first : first + 6] if picture.score is not None]
            assert scores == sorted(scores, reverse=True)
            assert len(scores) == 6
        kept = [(picture.prompt, picture.index) for picture in output.pictures]
        assert kept == [(p.prompt, p.index) for p in (*every.pictures[:2], *every.pictures[6:8])]

    def test_seed_and_index_draw_the_same_picture(self, run: Run) -> None:
        many = {p.index: p.image.tobytes() for p in run("dalle", prompts=["a tree"], n=5, seed=0).pictures}
        few = {p.index: p.image.tobytes() for p in run("dalle", prompts=["a tree"], n=2, seed=0).pictures}
        assert few == {index: many[index] for index in (0, 1)}
        other = {p.index: p.image.tobytes() for p in run("dalle", prompts=["a tree"], n=2, seed=1).pictures}
        assert other != few

    def test_a_batch_boundary_changes_nothing(self, run: Run, engines: dict[str, Engine]) -> None:
        device = engines["dalle"]._device  # type: ignore[attr-defined]
        whole = run("dalle", prompts=["a tree"], n=5, seed=3)
        device.rows, rows = 2, device.rows
        try:
            split = run("dalle", prompts=["a tree"], n=5, seed=3)
        finally:
            device.rows = rows
        assert [p.image.tobytes() for p in split.pictures] == [p.image.tobytes() for p in whole.pictures]

    def test_a_retry_asks_less_of_the_device(self, run: Run, engines: dict[str, Engine]) -> None:
        """A quarter of the rows at a time, to the same pictures."""
        device = engines["dalle"]._device  # type: ignore[attr-defined]
        device.rows, rows = 8, device.rows
        try:
            whole = run("dalle", prompts=["a tree"], n=5, seed=3)
            recorder = Recorder()
            spec = parse_spec("dalle", {"prompts": ["a tree"], "n": 5, "seed": 3})
            again = engines["dalle"].run(Task(spec, {}, failures=1, was_too_large=True), recorder)
            other = Recorder()
            engines["dalle"].run(Task(spec, {}, failures=2), other)
        finally:
            device.rows = rows
        assert len(recorder.steps) == 3 * 16  # batches of 2, 2 and 1
        assert len(other.steps) == 16  # what failed for another reason takes no less
        assert [p.image.tobytes() for p in again.pictures] == [p.image.tobytes() for p in whole.pictures]

    def test_a_large_batch_is_scored_in_steps_of_bounded_size(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        """Between them others have their turns, and the watchdog sees that it goes on."""
        sizes: list[int] = []
        encode = Clip.encode_image
        monkeypatch.setattr(Clip, "encode_image", lambda clip, rows: (sizes.append(len(rows)), encode(clip, rows))[1])
        run("dalle", prompts=["a tree"], n=40, seed=0)
        assert sizes == [16, 16, 8]

    def test_progress_counts_every_token(self, run: Run) -> None:
        recorder = Recorder()
        run("dalle", recorder, prompts=["a tree"], n=3, seed=0, preview_every=5)
        assert recorder.steps[-1] == ("sample", 48, 48)
        assert recorder.previews == [((16, 16), 5), ((16, 16), 10), ((16, 16), 15)]

    def test_a_cancel_stops_at_the_next_token(self, run: Run) -> None:
        recorder = Recorder(stop_at=4)
        with pytest.raises(Cancelled):
            run("dalle", recorder, prompts=["a tree"], n=3, seed=0)
        assert len(recorder.steps) == 4

    def test_finished_batches_survive_a_cancel(self, run: Run, engines: dict[str, Engine]) -> None:
        device = engines["dalle"]._device  # type: ignore[attr-defined]
        device.rows, rows = 2, device.rows
        try:
            with pytest.raises(StoppedWithOutput) as stop:
                run("dalle", Recorder(stop_at=20), prompts=["a tree"], n=4, seed=0)
        finally:
            device.rows = rows
        assert isinstance(stop.value.cause, Cancelled)
        assert len(stop.value.output.pictures) == 2

    def test_a_prefix_keeps_the_top(self, run: Run) -> None:
        plain = run("dalle", prompts=["a tree"], n=1, seed=0, preview_every=0)
        recorder = Recorder()
        given = run("dalle", recorder, prompts=["a tree"], n=1, seed=0, image_prefix={"image": REF, "rows": 2})
        assert len(recorder.steps) == 8  # two of four rows were given
        assert given.pictures[0].image.tobytes() != plain.pictures[0].image.tobytes()

    def test_a_prefix_of_all_rows_is_refused(self, run: Run) -> None:
        with pytest.raises(InvalidInput, match="4 rows"):
            run("dalle", prompts=["a tree"], n=1, image_prefix={"image": REF, "rows": 4})

    def test_parameters_are_resolved(self, run: Run) -> None:
        output = run("dalle", prompts=["a tree"], n=2)
        assert output.parameters["keep"] == 2
        assert output.parameters["guidance"] == 3.0
        assert output.parameters["seed"] == output.pictures[0].seed
        assert [model.id for model in output.models] == ["emoji-dalle", "emoji-vqgan", "emoji-clip"]
        assert all(len(model.sha256) == 64 for model in output.models)

    def test_an_unknown_model_has_a_name(self, run: Run) -> None:
        with pytest.raises(ModelUnavailable, match="huge"):
            run("dalle", prompts=["a tree"], model="huge")
        with pytest.raises(ModelUnavailable, match="vqgan"):
            run("dalle", prompts=["a tree"], model="emoji-vqgan")


class TestVqganClip:
    def test_it_ends_with_one_scored_picture(self, run: Run) -> None:
        recorder = Recorder()
        output = run(
            "vqgan_clip", recorder, prompts="a tree | fog:-0.5", iterations=6, size=[48, 32], seed=0, preview_every=2
        )
        (picture,) = output.pictures
        assert picture.image.size == (48, 32)
        assert picture.prompt == "a tree | fog:-0.5"
        assert picture.score is not None
        assert -1 <= picture.score <= 1
        assert recorder.steps == [("optimise", step, 6) for step in range(1, 7)]
        assert recorder.previews == [((48, 32), 2), ((48, 32), 4)]
        assert output.parameters["iterations_done"] == 6

    def test_the_same_seed_draws_the_same_picture(self, run: Run) -> None:
        def draw(seed: int) -> bytes:
            output = run("vqgan_clip", prompts=["a tree"], iterations=3, size=[32, 32], seed=seed)
            return output.pictures[0].image.tobytes()

        assert draw(0) == draw(0)
        assert draw(0) != draw(1)

    def test_a_cancel_keeps_the_picture_so_far(self, run: Run) -> None:
        with pytest.raises(StoppedWithOutput) as stop:
            run("vqgan_clip", Recorder(stop_at=3), prompts=["a tree"], iterations=100, size=[32, 32], seed=0)
        assert len(stop.value.output.pictures) == 1
        assert stop.value.output.parameters["iterations_done"] == 3

    def test_pictures_are_prompts_and_beginnings(self, run: Run) -> None:
        output = run(
            "vqgan_clip", prompts=[{"image": REF}, {"text": "a tree", "weight": 0.5}], init_image=OTHER,
            init_weight=1.0, iterations=2, size=[32, 32], seed=0, perceptors=["emoji-clip", "emoji-clip"], cutouts=2,
            learning_rate=0.2,
        )  # fmt: skip
        assert len(output.pictures) == 1
        assert output.parameters["cutouts"] == 2
        assert output.parameters["learning_rate"] == 0.2

    def test_a_video_shows_the_way(self, run: Run) -> None:
        output = run("vqgan_clip", prompts=["a tree"], iterations=8, size=[32, 32], seed=0, preview_every=2, video=True)
        body, content_type = output.files["video.webp"]
        assert content_type == "image/webp"
        with Image.open(io.BytesIO(body)) as video:
            assert getattr(video, "n_frames", 1) >= 2
            assert video.size == (32, 32)

    def test_a_video_shows_signs_of_life_with_every_frame(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        """And a cancel in its middle does not cost the picture."""
        looks: list[int] = []
        recorder = Recorder(stop_at=8)
        check = recorder.check

        def looked() -> None:
            looks.append(len(recorder.steps))
            check()

        monkeypatch.setattr(recorder, "check", looked)
        with pytest.raises(StoppedWithOutput) as stop:
            run("vqgan_clip", recorder, prompts=["a tree"], iterations=9, size=[32, 32], preview_every=2, video=True)
        assert looks.count(8) >= 6  # the cancel, four frames and the last
        assert "video.webp" in stop.value.output.files

    def test_a_loss_that_is_no_number_is_named(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "worker.models.vqgan_clip.rows.border_distance", lambda pictures: pictures.mean((1, 2, 3)) * math.nan
        )
        with pytest.raises(NonFinite):
            run("vqgan_clip", prompts=["a tree"], iterations=2, size=[32, 32], seed=0)


def saved_at(run: Run, stop_at: int, kind: str, **spec: Any) -> bytes:
    """What a run that is told to drain after so many reports saves last."""
    recorder = Recorder(stop_at=stop_at, cause=Draining)
    with pytest.raises(Draining):
        run(kind, recorder, **spec)
    return recorder.offers[-1][1]()


def as_bytes(output: Output) -> tuple[list[bytes], dict[str, tuple[bytes, str]]]:
    return [picture.image.tobytes() for picture in output.pictures], output.files


class TestResumedVqganClip:
    SPEC: ClassVar[dict[str, Any]] = {
        "prompts": "a tree | fog:-0.5", "iterations": 7, "size": [48, 32], "init_weight": 0.5, "video": True,
        "preview_every": 2,
    }  # fmt: skip

    @pytest.mark.parametrize("stop_at", [1, 4, 6, 7])
    def test_it_ends_in_the_same_picture_to_the_bit(self, run: Run, stop_at: int) -> None:
        whole = run("vqgan_clip", seed=0, **self.SPEC)
        saved = saved_at(run, stop_at, "vqgan_clip", seed=0, **self.SPEC)
        recorder = Recorder()
        resumed = run("vqgan_clip", recorder, saved, seed=0, **self.SPEC)
        assert recorder.resumed_at == [stop_at]
        assert [step for _, step, _ in recorder.steps] == list(range(stop_at + 1, 8))
        assert as_bytes(resumed) == as_bytes(whole)
        assert resumed.parameters == whole.parameters
        assert resumed.pictures[0].score == whole.pictures[0].score

    def test_twice_stopped_is_as_good(self, run: Run) -> None:
        first = saved_at(run, 2, "vqgan_clip", seed=0, **self.SPEC)
        recorder = Recorder(stop_at=3, cause=Draining)
        with pytest.raises(Draining):
            run("vqgan_clip", recorder, first, seed=0, **self.SPEC)
        resumed = run("vqgan_clip", None, recorder.offers[-1][1](), seed=0, **self.SPEC)
        assert as_bytes(resumed) == as_bytes(run("vqgan_clip", seed=0, **self.SPEC))

    def test_a_drawn_seed_is_kept(self, run: Run) -> None:
        recorder = Recorder(stop_at=3, cause=Draining)
        with pytest.raises(Draining):
            run("vqgan_clip", recorder, **self.SPEC)
        one, other = (run("vqgan_clip", None, recorder.offers[-1][1](), **self.SPEC) for _ in range(2))
        assert one.parameters["seed"] == other.parameters["seed"]
        assert as_bytes(one) == as_bytes(other)

    @pytest.mark.parametrize("damage", ["cut", "noise", "other spec", "other weights", "other form"])
    def test_what_does_not_fit_is_ignored(self, run: Run, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
        saved = saved_at(run, 3, "vqgan_clip", seed=0, **self.SPEC)
        spec = {**self.SPEC, "seed": 1 if damage == "other spec" else 0}
        if damage == "cut":
            saved = saved[: len(saved) // 2]
        elif damage == "noise":
            saved = b"\xff" * 100
        elif damage == "other form":
            monkeypatch.setattr("worker.engines.identity.FORM", "0")
        elif damage == "other weights":
            monkeypatch.setattr(
                "worker.engines.library.ModelLibrary.describe", lambda *_: [Model("emoji-vqgan", "vqgan", "f" * 64)]
            )
        recorder = Recorder()
        resumed = run("vqgan_clip", recorder, saved, **spec)
        assert recorder.resumed_at == []
        assert len(recorder.steps) == 7
        assert as_bytes(resumed) == as_bytes(run("vqgan_clip", **spec))


class TestResumedDalle:
    SPEC: ClassVar[dict[str, Any]] = {"prompts": ["a tree", "a red apple"], "n": 5, "keep": 3, "seed": 0}

    @pytest.fixture(autouse=True)
    def _two_rows(self, engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """At a time, and one step per turn."""
        monkeypatch.setattr("worker.engines.scheduling.device.TURN_S", 1e-6)
        device = engines["dalle"]._device  # type: ignore[attr-defined]
        device.rows, rows = 2, device.rows
        yield
        device.rows = rows

    @pytest.mark.parametrize("stop_at", [2, 16, 17, 33, 70])
    def test_only_the_rest_is_sampled_to_the_same_pictures(self, run: Run, stop_at: int) -> None:
        whole = run("dalle", **self.SPEC)
        saved = saved_at(run, stop_at, "dalle", **self.SPEC)
        recorder = Recorder()
        resumed = run("dalle", recorder, saved, **self.SPEC)
        assert recorder.resumed_at == [2 * stop_at]  # tokens, of 2 rows each
        assert [step for _, step, _ in recorder.steps] == list(range(2 * stop_at + 2, 162, 2))
        assert as_bytes(resumed) == as_bytes(whole)
        assert [(p.index, p.score) for p in resumed.pictures] == [(p.index, p.score) for p in whole.pictures]

    @pytest.mark.parametrize(("stop_at", "given"), [(2, 0), (7, 0), (15, 0), (16, 0), (2, 8), (7, 8)])
    def test_a_single_batch_goes_on_in_its_middle(
        self, run: Run, engines: dict[str, Engine], stop_at: int, given: int
    ) -> None:
        """Also where a picture gave the first tokens."""
        engines["dalle"]._device.rows = 64  # type: ignore[attr-defined]
        spec: dict[str, Any] = {"prompts": ["a tree"], "n": 4, "seed": 3}
        if given:
            spec["image_prefix"] = {"image": REF, "rows": given // 4}
        saved = saved_at(run, stop_at, "dalle", **spec)
        recorder = Recorder()
        resumed = run("dalle", recorder, saved, **spec)
        assert recorder.resumed_at == [4 * (given + stop_at)]
        assert len(recorder.steps) == 16 - given - stop_at
        assert as_bytes(resumed) == as_bytes(run("dalle", **spec))

    def test_a_smaller_device_goes_on_with_as_many_rows_as_it_holds(self, run: Run, engines: dict[str, Engine]) -> None:
        saved = saved_at(run, 9, "dalle", **self.SPEC)
        engines["dalle"]._device.rows = 1  # type: ignore[attr-defined]
        recorder = Recorder()
        resumed = run("dalle", recorder, saved, **self.SPEC)
        assert recorder.resumed_at == [18]
        assert len(recorder.steps) == 7 + 7 + 8 * 16
        assert [p.index for p in resumed.pictures] == [p.index for p in run("dalle", **self.SPEC).pictures]

    def test_a_larger_device_goes_on_where_a_smaller_one_was(self, run: Run, engines: dict[str, Engine]) -> None:
        saved = saved_at(run, 33, "dalle", **self.SPEC)
        engines["dalle"]._device.rows = 64  # type: ignore[attr-defined]
        recorder = Recorder()
        resumed = run("dalle", recorder, saved, **self.SPEC)
        assert len(recorder.steps) == 16  # what was begun, and all the rest, at once
        assert [p.index for p in resumed.pictures] == [p.index for p in run("dalle", **self.SPEC).pictures]


class TestResumedProbe:
    def test_it_takes_the_rest_of_its_steps(self, run: Run) -> None:
        saved = saved_at(run, 3, "probe", steps=5, write_bytes=10)
        recorder = Recorder()
        resumed = run("probe", recorder, saved, steps=5, write_bytes=10)
        assert recorder.resumed_at == [3]
        assert [step for _, step, _ in recorder.steps] == [4, 5]
        assert resumed == run("probe", steps=5, write_bytes=10)

    @pytest.mark.parametrize("saved", [b"", b"{}", b"[]", b"null", b"\xff"])
    def test_what_does_not_fit_is_ignored(self, run: Run, saved: bytes) -> None:
        recorder = Recorder()
        run("probe", recorder, saved, steps=2)
        assert len(recorder.steps) == 2


class TestStopped:
    """A real context, told in the middle of a step: that step is the last one."""

    SPECS: ClassVar[dict[str, dict[str, Any]]] = {
        "dalle": {"prompts": ["a tree"], "n": 2, "seed": 0, "preview_every": 0},
        "vqgan_clip": {"prompts": ["a tree"], "iterations": 50, "size": [32, 32], "seed": 0, "preview_every": 0},
        "rank": {"images": [REF, OTHER], "prompt": "a tree"},
    }
    INSIDE: ClassVar[dict[str, str]] = {
        "dalle": "worker.models.dalle.sampler.DalleSampler.step",
        "vqgan_clip": "worker.models.vqgan_clip.rows.LatentRows.step",
        "rank": "worker.models.clip.clip.Clip.encode_image",
    }

    @pytest.mark.parametrize("kind", SPECS)
    @pytest.mark.parametrize("cause", [Cancelled, LeaseLost, Draining, Yielded, DeadlineExceeded])
    def test_no_further_step_is_taken(
        self, kind: str, cause: type[Stopped], engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        context = Made(deadline_ms=100_000).context
        taken: list[int] = []
        step = pkgutil.resolve_name(self.INSIDE[kind])

        def interrupted(*arguments: Any) -> Any:
            taken.append(1)
            if len(taken) == self.last(kind):
                if cause is DeadlineExceeded:
                    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 200)
                    monkeypatch.setattr("worker.run.context.time", later)
                else:
                    context.stop(cause("told in the middle"))
            return step(*arguments)

        monkeypatch.setattr(self.INSIDE[kind], interrupted)
        monkeypatch.setattr(EmbeddingStepper, "slots", 1)
        parsed = parse_spec(kind, self.SPECS[kind])
        images = {ref: Image.new("RGB", (20, 14)) for ref in image_refs(parsed)}
        with pytest.raises((cause, StoppedWithOutput)) as stop:
            engines[kind].run(Task(parsed, images), context)
        assert len(taken) == self.last(kind)
        if isinstance(stop.value, StoppedWithOutput):  # what is done is kept for these, not for the others
            assert kind == "vqgan_clip"
            assert cause in (Cancelled, DeadlineExceeded)
            assert isinstance(stop.value.cause, cause)
            assert stop.value.output.parameters["iterations_done"] == self.last(kind)

    @staticmethod
    def last(kind: str) -> int:
        return 1 if kind == "rank" else 3


class TestClip:
    def test_rank_orders_by_score(self, run: Run) -> None:
        data = run("rank", images=[REF, OTHER], prompt="a tree").data
        scores = {item["image"]: item["score"] for item in data["scores"]}
        assert [item["image"] for item in data["scores"]] == [REF, OTHER]
        assert data["order"] == sorted(scores, key=lambda ref: -scores[ref])

    def test_classify_gives_probabilities_best_first(self, run: Run) -> None:
        data = run("classify", images=[REF, OTHER], labels=["a tree", "a heart", "fog"], top_k=3).data
        for item in data["classifications"]:
            chances = [label["probability"] for label in item["labels"]]
            assert chances == sorted(chances, reverse=True)
            assert sum(chances) == pytest.approx(1, abs=1e-4)

    def test_templates_are_ensembled(self, run: Run) -> None:
        spec = {"images": [REF], "labels": ["tree", "heart"], "top_k": 2}
        plain = run("classify", **spec).data["classifications"][0]["labels"]
        assert run("classify", templates=["{}", "{}"], **spec).data["classifications"][0]["labels"] == plain
        assert run("classify", templates=["a {}", "{} x"], **spec).data["classifications"][0]["labels"] != plain

    def test_a_picture_named_twice_is_looked_at_once(self, run: Run) -> None:
        recorder = Recorder()
        data = run("rank", recorder, images=[REF, OTHER, REF], prompt="a tree").data
        assert recorder.steps == [("images", 2, 2)]
        assert data["scores"][0] == data["scores"][2]

    def test_texts_are_remembered(self, run: Run, steps: list[str]) -> None:
        run("rank", images=[REF], prompt="a prompt not seen before")
        before = len(steps)
        run("rank", images=[REF], prompt="a prompt not seen before")
        assert len(steps) - before == 1  # the picture only

    def test_an_embedding_that_is_no_number_is_named(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "worker.models.clip.clip.Clip.encode_image", lambda _self, images: torch.full((len(images), 8), math.nan)
        )
        with pytest.raises(NonFinite):
            run("rank", images=[REF], prompt="a tree")


def test_models_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    write_tiny_models(tmp_path)
    save_model(VQGAN(TINY_VQGAN), tmp_path / "emoji-vqgan", torch.float32)  # 8x8 codes
    registry = json.loads((tmp_path / "registry.json").read_text())
    registry["models"][1]["sha256"] = {name: digest(tmp_path / "emoji-vqgan" / name) for name in (CONFIG, WEIGHTS)}
    (tmp_path / "registry.json").write_text(json.dumps(registry))
    engine = build_engines(["dalle"], EngineOptions(device="cpu", weights_dir=str(tmp_path)))["dalle"]
    with pytest.raises(ModelUnavailable, match="8"):
        engine.load()


def test_kinds_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UnknownKind, match="paint"):
        build_engines(["probe", "paint"], EngineOptions())


def test_a_folder_without_registry_is_a_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="registry"):
        build_engines(["rank"], EngineOptions(device="cpu", weights_dir=str(tmp_path)))


def test_a_device_that_is_not_there_has_a_name() -> None:
    with pytest.raises(ModelUnavailable, match="cuda:7"):
        build_engines(["rank"], EngineOptions(device="cuda:7"))
