"""What engines share that draw many candidates in codes: they are sampled in a shared batch, decoded and scored by CLIP
in groups as they come, and the best of each prompt are kept."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from worker.engines.base import Model, Output, Picture, RunContext, Task
from worker.engines.embedding.embedder import Embedder
from worker.engines.images import to_images
from worker.engines.scheduling.batch import Batch
from worker.engines.scheduling.device import Device
from worker.engines.scheduling.stepper import Row
from worker.models.dalle.pictures import decode_ids
from worker.models.vqgan.vqgan import VQGAN

__all__ = ["Candidate", "CandidateRow", "CandidateRun", "rows_at_once"]


@dataclass(frozen=True)
class Candidate:
    """One row of a batch: the place of its prompt in the spec, and which of that prompt's n it is."""

    prompt: int
    index: int


class CandidateRow(Row, Protocol):
    """A row of a batch that becomes a picture."""

    @property
    def candidate(self) -> Candidate:
        """Which one it is."""

    @property
    def prompt(self) -> str:
        """What its picture is labelled with."""


R = TypeVar("R", bound=CandidateRow)


def rows_at_once(device: Device, task: Task[Any]) -> int:
    """How many candidates one batch holds: a quarter where the last try was too much for the device."""
    return max(1, device.rows >> 2 if task.was_too_large else device.rows)


@dataclass(kw_only=True)
class CandidateRun(ABC, Generic[R]):
    """One job under way. What its rows are, its engine's own class says."""

    kind: str
    device: Device
    embedder: Embedder
    vqgan: VQGAN
    clip: str  # the id of the model that scores
    seed: int
    max_rows: int  # in a batch at once
    keep: int  # pictures of each prompt
    pictures: list[list[Picture]]  # per prompt
    parameters: dict[str, Any]  # of the output
    models: list[Model]  # of the output
    timings: dict[str, float]  # of the output; with sample_s, decode_s and rank_s
    ready: list[R] = field(default_factory=list)  # sampled, not decoded yet
    groups: list[list[R]] = field(default_factory=list)  # decoded, as they were together

    @abstractmethod
    def codes(self, group: Sequence[R]) -> Tensor:
        """(B, N) or (B, h, w) of rows that are done, on the device. Called outside of a turn."""

    @abstractmethod
    def targets(self, group: Sequence[R]) -> Tensor:
        """(B, D) unit vectors that the rows' pictures are scored against. Called outside of a turn."""

    @contextmanager
    def timed_sampling(self) -> Iterator[None]:
        """What happens inside counts as sampling, but for decoding and ranking."""
        started_at, before = time.monotonic(), self._finishing_s
        yield
        self.timings["sample_s"] += time.monotonic() - started_at - (self._finishing_s - before)

    def draw(
        self,
        batch: Batch[R],
        rows: Sequence[R],
        context: RunContext,
        on_step: Callable[[], None],
        on_turn: Callable[[], None],
        is_due: Callable[[], bool] = lambda: False,
    ) -> None:
        """Step `rows` to their ends, with the jobs that are there; decode and score in groups, as they come. on_turn:
        called whenever rows have moved, before any of them is decoded. on_step, is_due: see Batch.joined."""
        with batch.joined(rows, on_step, is_due, self.max_rows) as turns:
            for finished in turns:
                self.ready += finished
                on_turn()
                self.finish_ready(context, at_least=self.device.group)
        self.finish_ready(context)

    def finish_ready(self, context: RunContext | None, at_least: int = 1) -> None:
        """Decode and score in groups what is sampled, while so many are there. Without a context nothing stops it."""
        while len(self.ready) >= at_least:
            group = self.ready[: self.device.group]
            self.finish(group, context)
            self.ready = self.ready[len(group) :]

    def finish(self, group: list[R], context: RunContext | None) -> None:
        """Decode and score one group that is sampled."""
        sampled_at = time.monotonic()
        pictures = self._decoded(self.codes(group), context)
        decoded_at = time.monotonic()
        targets = self.targets(group)
        cosines = (self.embedder.tensors(self.clip, pictures) * targets).sum(1).tolist()  # too short to be stopped
        for row, image, score in zip(group, to_images(pictures), cosines, strict=True):
            picture = Picture(image, row.prompt, self.seed, row.candidate.index, score)
            self.pictures[row.candidate.prompt].append(picture)
        self.groups.append(group)
        self.timings["decode_s"] += decoded_at - sampled_at
        self.timings["rank_s"] += time.monotonic() - decoded_at

    def kept(self) -> Output | None:
        """What a job that was stopped has: its decoded pictures, and those of which only that was left."""
        self.finish_ready(None)
        return self.output() if any(self.pictures) else None

    def output(self) -> Output:
        """The first prompt's best, then the second's, and so on; the lower index first where scores are equal."""
        best = [
            picture
            for pictures in self.pictures
            for picture in sorted(pictures, key=lambda picture: (-(picture.score or 0.0), picture.index))[: self.keep]
        ]
        return Output(pictures=best, parameters=self.parameters, models=self.models, timings=self.timings)

    @property
    def _finishing_s(self) -> float:
        return self.timings["decode_s"] + self.timings["rank_s"]

    def _decoded(self, codes: Tensor, context: RunContext | None) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1]."""
        parts = []
        for ids in torch.split(codes, self.device.group):
            if context:
                context.check()
            with self.device.step(self.kind):
                parts.append(decode_ids(self.vqgan, ids))
        return torch.cat(parts)
