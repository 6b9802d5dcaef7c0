"""Snapshots of runs on the device: tensors in safetensors, and in its metadata whose they are."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import safetensors.torch
import structlog
import torch
from safetensors import SafetensorError
from torch import Tensor

from shared.specs.generation import MAX_SEED
from worker.engines.identity import is_of

__all__ = ["Saved", "as_bytes", "as_tensor", "pack", "seed_of", "unpack"]

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Saved:
    """What a snapshot held."""

    tensors: dict[str, Tensor]  # on the CPU
    facts: dict[str, str]


def pack(own: Mapping[str, str], tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> bytes:
    """One snapshot. `own`: identity(); the tensors are on the CPU and contiguous."""
    return safetensors.torch.save(dict(tensors), {**facts, **own})


def unpack(body: bytes | None, own: Mapping[str, str]) -> Saved | None:
    """None, with a line in the log, where it cannot be read or is not this run's."""
    if body is None:
        return None
    try:
        tensors = safetensors.torch.load(body)
        length = int.from_bytes(body[:8], "little")
        facts = json.loads(body[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, ValueError) as error:
        log.warning("snapshot ignored: it cannot be read", error=str(error))
        return None
    return Saved(tensors, facts) if is_of(facts, own) else None


def seed_of(given: int | None, saved: Saved | None = None) -> int:
    """The spec's, or the one that was drawn for the run: now, or before its snapshot."""
    if given is not None:
        return given
    return int(saved.facts["seed"]) if saved else secrets.randbelow(MAX_SEED)


def as_tensor(content: bytes) -> Tensor:
    """Bytes as a tensor (N,), uint8."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def as_bytes(tensor: Tensor) -> bytes:
    """The bytes that as_tensor was given."""
    return tensor.numpy().tobytes()
