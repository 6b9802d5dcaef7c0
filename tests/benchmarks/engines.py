"""Engines that batch across jobs: several jobs together against the same jobs one after the other, same weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from PIL.Image import Image

from shared.specs.kinds import parse_spec
from tests.benchmarks.gpu import run_gpu
from tests.benchmarks.latents import run_latents
from tests.benchmarks.min_dalle import run_min_dalle
from tests.benchmarks.report import Report
from worker.engines.base import Engine, Output, Task
from worker.engines.options import EngineOptions
from worker.engines.registry import build_engines
from worker.engines.scheduling.stepper import BatchEvents

__all__ = ["run"]

JOBS = 8
REPEATS = 3
PROMPTS = ("a red apple", "a cat", "a rocket", "a slice of pizza", "a tree", "a house", "a fish", "a blue car")


class Silent:
    """A context of a job that nobody watches."""

    def check(self) -> None:
        """Nothing stops it."""

    def progress(self, stage: str, step: int, total: int) -> None:
        """Not told."""

    def preview(self, image: Image, step: int) -> None:
        """Not shown."""

    def snapshot(self, step: int, make: Callable[[], bytes]) -> None:
        """Not saved."""

    def resumed(self, step: int) -> None:
        """Never."""


def run(report: Report) -> None:
    """Every measure of the engines."""
    steps: list[tuple[str, int]] = []
    events = BatchEvents(on_rows=lambda kind, rows, _slots: steps.append((kind, rows)))
    engines = build_engines(["dalle"], EngineOptions(device="cpu", events=events))
    engines["dalle"].load()
    _sharing(report, engines["dalle"])
    _joining(report, engines["dalle"], steps)
    run_latents(report)
    run_min_dalle(report)
    run_gpu(report)


def _sharing(report: Report, engine: Engine) -> None:
    jobs = [_task(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    serial_s, together_s, alone, shared = [], [], list[Output](), list[Output]()
    engine.run(jobs[0], Silent())  # warm
    for _ in range(REPEATS):  # in turns, so that a noisy minute falls on both
        began = time.perf_counter()
        alone = [engine.run(job, Silent()) for job in jobs]
        serial_s.append(time.perf_counter() - began)
        began = time.perf_counter()
        shared = _together(engine, jobs)
        together_s.append(time.perf_counter() - began)
    count = JOBS * 4
    print(f"   {count / min(serial_s):.1f} pictures/s one after the other, {count / min(together_s):.1f} together")
    report.add("dalle_batched_vs_serial", min(serial_s) / min(together_s), "x", at_least=3.0)
    equal = sum(_pixels(one) == _pixels(other) for one, other in zip(alone, shared, strict=True))
    report.add("dalle_jobs_equal_co_batched", equal / JOBS, "share", at_least=1.0)


def _joining(report: Report, engine: Engine, steps: list[tuple[str, int]]) -> None:
    """How many steps of a full batch pass between a short job's call and the first step it is part of."""
    long = threading.Thread(target=engine.run, args=(_task("a tree", 0, n=256), Silent()))
    steps.clear()
    long.start()
    while len(steps) < 20:
        time.sleep(0.001)
    waited: list[int] = []

    class Watched(Silent):
        """Hears of the first step."""

        def progress(self, stage: str, step: int, total: int) -> None:
            """The first one counts."""
            if step and not waited:
                waited.append(len(steps) - asked)

    asked = len(steps)
    engine.run(_task("a cat", 1), Watched())
    long.join()
    report.add("dalle_joins_within_steps", waited[0], "steps", at_most=2.0)


def _task(prompt: str, seed: int, **changes: Any) -> Task:
    return Task(parse_spec("dalle", {"prompts": [prompt], "n": 4, "seed": seed, "preview_every": 0} | changes), {})


def _together(engine: Engine, jobs: Sequence[Task]) -> list[Output]:
    outputs: dict[int, Output] = {}

    def one(place: int) -> None:
        outputs[place] = engine.run(jobs[place], Silent())

    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [outputs[place] for place in range(len(jobs))]


def _pixels(output: Output) -> list[tuple[int, bytes]]:
    return [(picture.index, picture.image.tobytes()) for picture in output.pictures]
