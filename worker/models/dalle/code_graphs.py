"""A step of a code model recorded as one CUDA graph per number of rows: the GPU is told once, and replays.

A step of a small model is a thousand kernels of microseconds each; told one by one, the GPU waits for its host. Rows
are rounded up to a bucket, spare ones compute what nobody reads; attention reads the whole length, so that one
recording serves every position. Never run on a GPU yet: what is tested here is everything but the recording itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.models.dalle.code_model import CodeModel, SequenceCache

SMALLEST = 8  # rows of the least bucket
WARM_UP = 2  # steps before one is recorded: libraries choose their kernels and workspaces then

Record = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]]
"""Runs a function once; its result, and what computes it again into the same place."""


def bucket_of(rows: int, max_rows: int) -> int:
    """The least power of two, from SMALLEST on, that holds so many; never above `max_rows`."""
    return min(max_rows, max(SMALLEST, 1 << (rows - 1).bit_length()))


def record_on_cuda(run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
    """Record as a CUDA graph. Other threads may use the GPU meanwhile, in streams of their own."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = run()
    graph.replay()
    return result, graph.replay


@dataclass(slots=True)
class _Recorded:
    codes: Tensor  # what it reads
    position: Tensor
    logits: Tensor  # what it writes
    replay: Callable[[], None]


class CodeGraphs:
    """The steps of one cache. Make a new one with a new cache: a recording holds its addresses."""

    def __init__(self, model: CodeModel, cache: SequenceCache, record: Record = record_on_cuda) -> None:
        self._model = model
        self._cache = cache
        self._record = record
        self._recorded: dict[tuple[int, int], _Recorded] = {}
        self.replays = 0

    @property
    def recordings(self) -> int:
        """How many there are."""
        return len(self._recorded)

    def step(self, codes: Tensor, position: Tensor) -> Tensor:
        """CodeModel's step, recorded at first and replayed after, for as many rows as a bucket holds. The logits hold
        until the next step."""
        key = (len(codes), self._cache.text_read(len(codes)))
        found = self._recorded.get(key)
        if found is None:
            self._recorded[key] = found = self._new(codes, position)
            return found.logits
        found.codes.copy_(codes)
        found.position.copy_(position)
        found.replay()
        self.replays += 1
        return found.logits

    def _new(self, codes: Tensor, position: Tensor) -> _Recorded:
        codes, position = codes.clone(), position.clone()

        def run() -> Tensor:
            return self._model.step(codes, position, self._cache, self._model.image_length)

        return _Recorded(codes, position, *self._record(run))
