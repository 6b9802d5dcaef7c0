"""The one class that touches the device: which it is, who may use it now, and what its errors mean.

Jobs run in threads of their own and meet here: one of them has its turn at a time, in the order of asking, so jobs of
any kind advance side by side instead of one after the other. Short steps share a turn, so that a job of short steps
gets as much of the device's time as one of long steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from shared.errors import EngineError, ModelUnavailable, OutOfMemory
from worker.engines.turns import Turns
from worker.models.errors import ModelError

__all__ = ["Device", "Turn"]

IS_FULL = ("DefaultCPUAllocator: ", "MPS backend out of memory")  # c10/core/impl/alloc_cpu.cpp, aten's MPSAllocator
TURN_S = 0.05  # how long short steps may follow each other in one turn; other jobs wait as long


class Turn:
    """Time on the device that one job has; counts the steps taken in it."""

    def __init__(self, kind: str, on_step: Callable[[str, float], None], moved: Callable[[], None]) -> None:
        self._kind = kind
        self._on_step = on_step
        self._moved = moved
        self._stepped_at = time.monotonic()
        self._ends_at = self._stepped_at + TURN_S

    @property
    def has_time(self) -> bool:
        """Whether another step may follow in this turn."""
        return self._stepped_at < self._ends_at

    def stepped(self) -> None:
        """A step was taken."""
        now = time.monotonic()
        self._moved()
        self._on_step(self._kind, now - self._stepped_at)
        self._stepped_at = now


class Device:
    """`rows`: how many pictures a batch may hold here, a bound on memory until it is predicted (issue 4)."""

    def __init__(
        self,
        name: str = "auto",
        threads: int = 0,
        on_step: Callable[[str, float], None] = lambda _kind, _seconds: None,
        turns: Turns | None = None,
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.torch_device = _pick(name)
        self.autocast = torch.bfloat16 if self._is_fast_in_bfloat16() else None
        self.rows = 64 if self.torch_device.type == "cpu" else 256
        self._turns = turns or Turns()
        self._on_step = on_step

    @property
    def name(self) -> str:
        """As workers show it: `cpu`, or the card's name."""
        if self.torch_device.type == "cuda":
            return f"{self.torch_device} {torch.cuda.get_device_name(self.torch_device)}"
        return str(self.torch_device)

    def _is_fast_in_bfloat16(self) -> bool:
        return self.torch_device.type == "cuda" and torch.cuda.is_bf16_supported()

    @contextmanager
    def turn(self, kind: str) -> Iterator[Turn]:
        """Alone on the device, for one or more steps of a job of `kind`. Raises EngineError, OutOfMemory in place of
        what the models and torch raise."""
        self._turns.acquire()
        try:
            yield Turn(kind, self._on_step, self._turns.moved)
        except ModelError as error:
            raise EngineError(str(error)) from error
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if self.torch_device.type == "cuda":
                torch.cuda.empty_cache()
            raise OutOfMemory(f"{self.torch_device} has not enough memory for this job") from error
        finally:
            self._turns.release()

    @contextmanager
    def step(self, kind: str) -> Iterator[None]:
        """A turn of one step."""
        with self.turn(kind) as turn:
            yield
            turn.stepped()


def _pick(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without CUDA
        raise ModelUnavailable(f"no device {name!r} here: {error}") from error
    return device


def _is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA has a class for it; the others only say so."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in IS_FULL)
