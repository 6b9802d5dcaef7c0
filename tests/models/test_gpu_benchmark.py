"""The benchmark that waits for a GPU runs: here on the CPU, at sizes of nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.benchmarks.gpu import BOUNDS, Shapes, run_gpu
from tests.models.conftest import SMALL_VQGAN, tiny_clip_config
from tests.models.test_dalle_bart import TINY


class Report:
    """In place of the one that keeps figures."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def add(self, name: str, value: float, _unit: str, **_: Any) -> None:
        """Remembered only."""
        self.values[name] = value


def test_every_figure_is_taken() -> None:
    report: Any = Report()
    vqgan = replace(SMALL_VQGAN, codes=TINY.image_vocab, resolution=TINY.grid * SMALL_VQGAN.factor)
    shapes = Shapes("cpu", TINY, vqgan, tiny_clip_config(), pictures=4, side=16, cuts=2, jobs=2, steps=2, files=8)
    run_gpu(report, shapes)
    assert report.values.keys() == BOUNDS.keys()
    assert all(value > 0 for value in report.values.values())
