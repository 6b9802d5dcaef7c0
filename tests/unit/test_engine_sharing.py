"""Jobs of several callers on one device: they share steps, and none is the worse for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from shared.errors import NonFinite, OutOfMemory
from shared.specs import image_refs, parse_spec
from tests.support.polling import eventually
from tests.support.tiny_models import write_tiny_models
from tests.unit.test_engine_models import Recorder
from worker.engines.base import Engine, Output, Task
from worker.engines.batch import BatchEvents
from worker.engines.registry import EngineOptions, build_engines
from worker.models.clip import Clip
from worker.models.dalle import Dalle

REFS = [f"img_{number:064x}" for number in range(6)]
JOBS: list[tuple[str, dict[str, Any]]] = [
    ("dalle", {"prompts": ["a tree"], "n": 3, "seed": 0}),
    ("dalle", {"prompts": ["a red apple", "a tree"], "n": 2, "seed": 1, "temperature": 0.5, "top_k": 7}),
    ("dalle", {"prompts": ["a heart"], "n": 5, "keep": 2, "seed": 2, "guidance": 1.0, "top_p": 0.8}),
]


class Heard:
    """What batches told."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int]] = []
        self.shrunk: list[str] = []
        self.cached: list[tuple[str, int, int]] = []
        self.memory: list[tuple[str, int, int]] = []
        self.events = BatchEvents(
            on_rows=lambda kind, rows, _slots: self.rows.append((kind, rows)),
            on_shrunk=self.shrunk.append,
            on_cache=lambda *told: self.cached.append(told),
            on_memory=lambda *told: self.memory.append(told),
        )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_models(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def engines(weights: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> dict[str, Engine]:
    """One step per turn, so that whoever comes is in the next one."""
    monkeypatch.setattr("worker.engines.device.TURN_S", 1e-6)
    return _engines(weights, heard)


def _engines(weights: Path, heard: Heard, **changes: Any) -> dict[str, Engine]:
    options = EngineOptions(device="cpu", cpu_threads=1, weights_dir=str(weights), events=heard.events, **changes)
    engines = build_engines(["dalle", "rank", "classify"], options)
    for engine in set(engines.values()):
        engine.load()
    return engines


def _run(engines: dict[str, Engine], kind: str, spec: dict[str, Any]) -> Output:
    parsed = parse_spec(kind, spec)
    images = {ref: Image.new("RGB", (20, 14), (40 * int(ref[-1]), 90, 10)) for ref in image_refs(parsed)}
    return engines[kind].run(Task(parsed, images), Recorder())


def _run_together(engines: dict[str, Engine], jobs: Sequence[tuple[str, dict[str, Any]]]) -> list[Output | Exception]:
    """Each in a thread of its own, none before all are there."""
    outputs: list[Output | Exception] = [RuntimeError("not run")] * len(jobs)
    together = threading.Barrier(len(jobs))

    def one(place: int) -> None:
        together.wait(10)
        try:
            outputs[place] = _run(engines, *jobs[place])
        except Exception as error:
            outputs[place] = error

    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outputs


def _pixels(output: Output | Exception) -> list[tuple[int, bytes]]:
    assert isinstance(output, Output), output
    return [(picture.index, picture.image.tobytes()) for picture in output.pictures]


@pytest.fixture
def held(engines: dict[str, Engine]) -> Iterator[Callable[[], None]]:
    """The device is busy until this is called: jobs gather."""
    device = engines["dalle"]._device  # type: ignore[attr-defined]
    device.turns.acquire()
    is_held = [True]

    def let_go() -> None:
        if is_held.pop():
            is_held.append(False)
            device.turns.release()

    yield let_go
    if is_held[0]:
        device.turns.release()


def test_jobs_share_steps_and_draw_what_they_draw_alone(engines: dict[str, Engine], heard: Heard) -> None:
    alone = [_pixels(_run(engines, *job)) for job in JOBS]
    heard.rows.clear()
    together = [_pixels(output) for output in _run_together(engines, JOBS)]
    assert together == alone
    assert max(rows for kind, rows in heard.rows if kind == "dalle") > 5  # more than any of them has


def test_pinned_batches_draw_the_same_in_any_company(weights: Path, heard: Heard) -> None:
    engines = _engines(weights, heard, is_pinned=True)
    alone = [_run(engines, *job) for job in JOBS]
    together = _run_together(engines, JOBS)
    for one, other in zip(alone, together, strict=True):
        assert _pixels(one) == _pixels(other)
        assert isinstance(other, Output)
        assert [picture.score for picture in one.pictures] == [picture.score for picture in other.pictures]


def test_a_full_device_takes_less_at_a_time(
    engines: dict[str, Engine], heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [_pixels(_run(engines, *job)) for job in JOBS]
    step = Dalle.step

    def full(model: Dalle, codes: torch.Tensor, *others: Any) -> torch.Tensor:
        if len(codes) > 10:
            raise torch.OutOfMemoryError("full")
        return step(model, codes, *others)

    monkeypatch.setattr(Dalle, "step", full)
    assert [_pixels(output) for output in _run_together(engines, JOBS)] == alone
    assert set(heard.shrunk) == {"dalle"}


def test_one_row_that_does_not_fit_is_refused_before_it_starts(weights: Path, heard: Heard) -> None:
    engines = _engines(weights, heard, memory_bytes=1)
    with pytest.raises(OutOfMemory, match="MiB free"):
        _run(engines, *JOBS[0])


def test_a_job_of_no_numbers_fails_alone(engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    good = _pixels(_run(engines, *JOBS[0]))
    prefill = Dalle.prefill

    def poisoned(model: Dalle, text_ids: torch.Tensor) -> Any:
        made = prefill(model, text_ids)
        assert made.start is not None
        made.start[(text_ids == bad).all(1)] = float("nan")
        return made

    library = engines["dalle"]._library  # type: ignore[attr-defined]
    bad = library.tokenizer("emoji-dalle").encode(["poison"], 6, framed=False).ids[0]
    monkeypatch.setattr(Dalle, "prefill", poisoned)
    poison = ("dalle", {"prompts": ["poison"], "n": 2, "seed": 0})
    first, second = _run_together(engines, [JOBS[0], poison])
    assert _pixels(first) == good
    assert isinstance(second, NonFinite)
    assert "candidate 0 of 'poison'" in str(second)


def test_what_clip_looks_at_is_gathered_over_jobs(
    engines: dict[str, Engine], held: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    encode = Clip.encode_image
    monkeypatch.setattr(Clip, "encode_image", lambda clip, rows: (sizes.append(len(rows)), encode(clip, rows))[1])
    embedder = engines["rank"]._embedder  # type: ignore[attr-defined]
    jobs = [("rank", {"images": REFS[place : place + 2], "prompt": "a tree"}) for place in (0, 2, 4)]
    threads = [threading.Thread(target=_run, args=(engines, *job)) for job in jobs]
    for thread in threads:
        thread.start()
    eventually(lambda: sum(len(batch._members) for batch in embedder._readers.values()) == 3)
    held()
    for thread in threads:
        thread.join(20)
    assert sum(sizes) == 6
    assert len(sizes) < 3


def test_caches_and_memory_are_told(engines: dict[str, Engine], heard: Heard) -> None:
    _run(engines, *JOBS[0])
    _run(engines, *JOBS[0])
    captions = [(hits, misses) for name, hits, misses in heard.cached if name == "captions"]
    assert captions == [(4, 2), (6, 0)]  # 3 rows, each with the caption and the empty one
    texts = [(hits, misses) for name, hits, misses in heard.cached if name == "texts"]
    assert texts == [(0, 1), (1, 0)]
    assert all(kind == "dalle" and 0 < predicted < used for kind, predicted, used in heard.memory)
