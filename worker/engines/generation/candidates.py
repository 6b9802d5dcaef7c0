"""What engines share that draw many candidates in codes: decoding, scoring by CLIP, the best of each prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engines.base import Picture, RunContext, Task
from worker.engines.embedding.embedder import Embedder
from worker.engines.scheduling.device import Device
from worker.models.dalle.pictures import decode_ids
from worker.models.vqgan.vqgan import VQGAN

__all__ = ["Candidate", "best", "decode", "rows_at_once", "scores"]


@dataclass(frozen=True)
class Candidate:
    """One row of a batch: the place of its prompt in the spec, and which of that prompt's n it is."""

    prompt: int
    index: int


def rows_at_once(device: Device, task: Task) -> int:
    """How many candidates one batch holds: a quarter where the last try was too much for the device."""
    return max(1, device.rows >> 2 if task.was_too_large else device.rows)


def decode(device: Device, vqgan: VQGAN, codes: Tensor, kind: str, context: RunContext | None) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] of codes (B, N) or (B, h, w). Without a context nothing stops it."""
    parts = []
    for ids in torch.split(codes, device.group):
        if context:
            context.check()
        with device.step(kind):
            parts.append(decode_ids(vqgan, ids))
    return torch.cat(parts)


def scores(embedder: Embedder, clip: str, pictures: Tensor, targets: Tensor) -> list[float]:
    """Cosine of every picture (B, 3, H, W) with its own unit vector (B, D). Bounded, so nothing stops it."""
    found: list[float] = (embedder.tensors(clip, pictures) * targets).sum(1).tolist()
    return found


def best(pictures: Sequence[Sequence[Picture]], keep: int) -> Iterator[Picture]:
    """The first prompt's best, then the second's, and so on; the lower index first where scores are equal."""
    for group in pictures:
        yield from sorted(group, key=lambda picture: (-(picture.score or 0.0), picture.index))[:keep]
