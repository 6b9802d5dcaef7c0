"""Jobs of several callers on one device: they share steps, and none is the worse for it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from shared.errors import NonFinite, OutOfMemory
from shared.specs.kinds import image_refs, parse_spec
from tests.support.polling import PATIENCE_S, eventually
from tests.support.tiny_models import write_tiny_models
from tests.unit.engines.test_torch_engines import Recorder
from worker.engines.base import Engine, Output, Task
from worker.engines.library import ModelLibrary
from worker.engines.options import EngineOptions
from worker.engines.registry import build_engines
from worker.engines.scheduling.device_lock import DeviceLock
from worker.engines.scheduling.stepper import BatchEvents
from worker.models.clip.clip import Clip
from worker.models.dalle.dalle import Dalle

REFS = [f"img_{number:064x}" for number in range(6)]
JOBS: list[tuple[str, dict[str, Any]]] = [
    ("dalle", {"prompts": ["a tree"], "n": 3, "seed": 0}),
    (
        "dalle",
        {"prompts": ["a red apple", "a tree"], "n": 2, "seed": 1, "temperature": 0.5, "top_k": 7},
    ),
    (
        "dalle",
        {"prompts": ["a heart"], "n": 5, "keep": 2, "seed": 2, "guidance": 1.0, "top_p": 0.8},
    ),
]


class Heard:
    """What batches told, and the lock of the device they are on."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int]] = []
        self.shrunk: list[str] = []
        self.cached: list[tuple[str, int, int]] = []
        self.memory: list[tuple[str, int, int]] = []
        self.device_lock = DeviceLock()
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
    monkeypatch.setattr("worker.engines.scheduling.device.TURN_S", 1e-6)
    return _engines(weights, heard)


def _engines(weights: Path, heard: Heard, **changes: Any) -> dict[str, Engine]:
    options = EngineOptions(
        device="cpu",
        cpu_threads=1,
        weights_dir=str(weights),
        events=heard.events,
        device_lock=heard.device_lock,
        **changes,
    )
    engines = build_engines(["dalle", "rank", "classify"], options)
    for engine in set(engines.values()):
        engine.load()
    return engines


def _run(engines: dict[str, Engine], kind: str, spec: dict[str, Any]) -> Output:
    parsed = parse_spec(kind, spec | ({"preview_every": 0} if kind == "dalle" else {}))
    images = {ref: Image.new("RGB", (20, 14), (40 * int(ref[-1]), 90, 10)) for ref in image_refs(parsed)}
    return engines[kind].run(Task(parsed, images), Recorder())


def _run_together(
    engines: dict[str, Engine], jobs: Sequence[tuple[str, dict[str, Any]]], device_lock: DeviceLock
) -> list[Output | Exception]:
    """Each in a thread of its own; the device is free when all of them have come to it."""
    outputs: list[Output | Exception] = [RuntimeError("not run")] * len(jobs)

    def one(place: int) -> None:
        try:
            outputs[place] = _run(engines, *jobs[place])
        except Exception as error:
            outputs[place] = error

    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(jobs))]
    device_lock.acquire()
    try:
        for thread in threads:
            thread.start()
        eventually(lambda: all(device_lock.is_waiting(thread.ident or 0) for thread in threads))
    finally:
        device_lock.release()
    for thread in threads:
        thread.join(PATIENCE_S)
    return outputs


def _pixels(output: Output | Exception) -> list[tuple[int, bytes]]:
    assert isinstance(output, Output), output
    return [(picture.index, picture.image.tobytes()) for picture in output.pictures]


def test_jobs_share_steps_and_draw_what_they_draw_alone(engines: dict[str, Engine], heard: Heard) -> None:
    alone = [_pixels(_run(engines, *job)) for job in JOBS]
    heard.rows.clear()
    together = [_pixels(output) for output in _run_together(engines, JOBS, heard.device_lock)]
    assert together == alone
    assert max(rows for kind, rows in heard.rows if kind == "dalle") > 5  # more than any of them has


def test_deterministic_batches_draw_the_same_whatever_is_co_batched(weights: Path, heard: Heard) -> None:
    engines = _engines(weights, heard, is_deterministic=True)
    alone = [_run(engines, *job) for job in JOBS]
    together = _run_together(engines, JOBS, heard.device_lock)
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
    assert [_pixels(output) for output in _run_together(engines, JOBS, heard.device_lock)] == alone
    assert set(heard.shrunk) == {"dalle"}


def test_one_row_that_does_not_fit_is_refused_before_it_starts(weights: Path, heard: Heard) -> None:
    engines = _engines(weights, heard, memory_bytes=1)
    with pytest.raises(OutOfMemory, match="MiB free"):
        _run(engines, *JOBS[0])


def test_a_job_of_no_numbers_fails_alone(
    engines: dict[str, Engine], heard: Heard, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = _pixels(_run(engines, *JOBS[0]))
    prefill = Dalle.prefill

    def poisoned(model: Dalle, text_ids: torch.Tensor) -> Any:
        made = prefill(model, text_ids)
        assert made.start is not None
        made.start[(text_ids == bad).all(1)] = float("nan")
        return made

    tokenizer = ModelLibrary(torch.device("cpu"), str(weights)).tokenizer("emoji-dalle")
    bad = tokenizer.encode(["poison"], 6, framed=False).ids[0]
    monkeypatch.setattr(Dalle, "prefill", poisoned)
    poison = ("dalle", {"prompts": ["poison"], "n": 2, "seed": 0})
    first, second = _run_together(engines, [JOBS[0], poison], heard.device_lock)
    assert _pixels(first) == good
    assert isinstance(second, NonFinite)
    assert "candidate 0 of 'poison'" in str(second)


def test_what_clip_looks_at_is_gathered_over_jobs(
    engines: dict[str, Engine], heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    encode = Clip.encode_text
    monkeypatch.setattr(Clip, "encode_text", lambda clip, rows: (sizes.append(len(rows)), encode(clip, rows))[1])
    jobs = [("rank", {"images": REFS[:2], "prompt": prompt}) for prompt in ("a tree", "a cat", "a heart")]
    together = _run_together(engines, jobs, heard.device_lock)
    assert sum(sizes) == 3
    assert len(sizes) < 3  # one came before the device was held, at most
    for job, output in zip(jobs, together, strict=True):
        assert isinstance(output, Output)
        assert output.data["order"] == _run(engines, *job).data["order"]


def test_caches_and_memory_are_told(engines: dict[str, Engine], heard: Heard) -> None:
    _run(engines, *JOBS[0])
    _run(engines, *JOBS[0])
    captions = [(hits, misses) for name, hits, misses in heard.cached if name == "captions"]
    assert captions == [(4, 2), (6, 0)]  # 3 rows, each with the caption and the empty one
    texts = [(hits, misses) for name, hits, misses in heard.cached if name == "texts"]
    assert texts == [(0, 1), (1, 0)]
    assert all(kind == "dalle" and 0 < predicted < used for kind, predicted, used in heard.memory)
