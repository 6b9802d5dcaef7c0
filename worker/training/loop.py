"""What every training stage shares: the budget, the schedule, curves, checkpoints, resuming, weight averages."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from worker.training.errors import TrainingError

Module = TypeVar("Module", bound=nn.Module)

CHECKPOINT, CURVES = "checkpoint.pt", "curves.jsonl"


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop: after so many minutes or steps, whichever comes first."""

    minutes: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.minutes is None and self.steps is None:
            raise TrainingError("give --minutes or --steps")


@dataclass(frozen=True, slots=True)
class Plan:
    """What every stage is told: where it reads and writes, for how long, and on what it runs."""

    data: Path
    out: Path
    budget: Budget
    device: torch.device
    resume: bool = False  # go on from the checkpoint in `out`


class Run:
    """One stage's run in its output folder."""

    def __init__(self, out: Path, budget: Budget, save_every_s: float = 300.0) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.budget = out, budget
        self.step = 0
        self.spent_s = 0.0  # of earlier runs that this one resumes
        self.save_every_s = save_every_s
        self._started = self._saved = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds of training so far, resumed runs included."""
        return self.spent_s + time.monotonic() - self._started

    @property
    def progress(self) -> float:
        """Share of the budget used, 0 to 1."""
        shares = [0.0]
        if self.budget.minutes:
            shares.append(self.elapsed_s / (self.budget.minutes * 60))
        if self.budget.steps:
            shares.append(self.step / self.budget.steps)
        return min(1.0, max(shares))

    def steps(self) -> Iterator[int]:
        """Step numbers until the budget is used."""
        while self.progress < 1.0:
            yield self.step
            self.step += 1

    def rate(self, peak: float, warmup_steps: int = 200, floor: float = 0.02) -> float:
        """Learning rate: linear warm-up, then a cosine down to a share of the peak."""
        warm = min(1.0, (self.step + 1) / warmup_steps)
        return peak * warm * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * self.progress)))

    def log(self, **values: float) -> None:
        """Append one line to the curves and print it."""
        row = {"step": self.step, "seconds": round(self.elapsed_s, 1)}
        row |= {key: round(float(value), 5) for key, value in values.items()}
        with (self.out / CURVES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(self.out.name, json.dumps(row), flush=True)

    def due(self) -> bool:
        """True about every `save_every_s` seconds: time to save and measure."""
        if time.monotonic() - self._saved < self.save_every_s:
            return False
        self._saved = time.monotonic()
        return True

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint, all or nothing."""
        fresh = self.out / (CHECKPOINT + ".new")
        torch.save({"step": self.step, "spent_s": self.elapsed_s, **state}, fresh)
        fresh.replace(self.out / CHECKPOINT)

    def resume(self) -> dict[str, Any] | None:
        """The checkpoint's state, with the step and time set from it; None where there is none."""
        path = self.out / CHECKPOINT
        if not path.is_file():
            return None
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        self.step, self.spent_s = state["step"] + 1, state["spent_s"]
        return state


class Average(Generic[Module]):
    """Exponential moving average of a module's weights, kept in a second module of the same build."""

    def __init__(self, source: Module, target: Module, decay: float) -> None:
        self.source, self.target, self.decay = source, target, decay
        target.load_state_dict(source.state_dict())
        target.eval().requires_grad_(False)
        self.count = 0

    @torch.no_grad()
    def update(self) -> None:
        """One step; early steps use a shorter memory."""
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        own: list[Tensor] = list(self.target.parameters())
        theirs: list[Tensor] = list(self.source.parameters())
        torch._foreach_lerp_(own, theirs, 1 - decay)
        for mine, buffer in zip(self.target.buffers(), self.source.buffers(), strict=True):
            mine.copy_(buffer)


def decayed_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices and kernels decay, gains, biases and position tables do not."""
    live = [p for p in module.parameters() if p.requires_grad]
    heavy, light = [p for p in live if p.ndim >= 2], [p for p in live if p.ndim < 2]
    return [{"params": heavy, "weight_decay": weight_decay}, {"params": light, "weight_decay": 0.0}]


@contextmanager
def mixed(device: torch.device) -> Iterator[None]:
    """bf16 for the heavy operations; on CPUs attention by plain matrix products, not the fused kernel, which is slower.

    A CLIP step of 256 takes 1.06 s of one core; 1.44 s with the fused kernel, 1.76 s in float32; a DALL-E step of 64
    takes 0.74, 1.09 and 1.28 s (`make bench ONLY=training`).
    """
    plain = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, torch.bfloat16), plain:
        yield


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def adam(groups: list[dict[str, Any]], rate: float, betas: tuple[float, float], device: torch.device) -> Any:
    """AdamW, fused where the device has that."""
    return torch.optim.AdamW(groups, lr=rate, betas=betas, fused=device.type == "cuda")
