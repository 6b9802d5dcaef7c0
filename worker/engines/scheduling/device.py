"""The one class that touches the device: which it is, who may use it now, and what its errors mean.

Jobs run in threads of their own and meet here: one of them has its turn at a time, in the order of asking, so jobs of
any kind advance side by side instead of one after the other. Short steps share a turn, so that a job of short steps
gets as much of the device's time as one of long steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from shared.errors import EngineError, ModelUnavailable, OutOfMemory
from worker.engines.scheduling.batch import Batch
from worker.engines.scheduling.device_lock import DeviceLock
from worker.engines.scheduling.memory import available_bytes, peak_bytes, resident_bytes
from worker.engines.scheduling.stepper import BatchEvents, Row, Stepper
from worker.models.errors import ModelError

__all__ = ["Device", "Turn"]

R = TypeVar("R", bound=Row)

IS_FULL = ("DefaultCPUAllocator: ", "MPS backend out of memory")  # c10/core/impl/alloc_cpu.cpp, aten's MPSAllocator
DECODED_TOGETHER = 16  # pictures decoded in one step, so that other jobs' steps fit between
RESERVED = 0.2  # of the free memory
DETERMINISTIC_ROWS = 8
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
    """`rows`: how many pictures a batch may hold at most; how many it does is a question of memory too. `group`: how
    many are decoded in one step. `is_deterministic`: batches keep one shape whatever is in them, so that a picture is
    the same to the last bit whatever is co-batched; it costs what empty slots cost.
    """

    def __init__(
        self,
        name: str = "auto",
        threads: int = 0,
        on_step: Callable[[str, float], None] = lambda _kind, _seconds: None,
        device_lock: DeviceLock | None = None,
        *,
        memory_bytes: int = 0,
        is_deterministic: bool = False,
        events: BatchEvents | None = None,
    ) -> None:
        """memory_bytes: what engines may use of the device; 0 asks it what is free."""
        if threads:
            torch.set_num_threads(threads)
        self.torch_device = _pick(name)
        self.autocast = torch.bfloat16 if self._is_fast_in_bfloat16() else None
        self.rows = DETERMINISTIC_ROWS if is_deterministic else 64 if self.torch_device.type == "cpu" else 256
        self.is_deterministic = is_deterministic
        self.group = 1 if is_deterministic else DECODED_TOGETHER
        self.device_lock = device_lock or DeviceLock()
        self.events = events or BatchEvents()
        self._memory_bytes = memory_bytes
        self._on_step = on_step

    @property
    def name(self) -> str:
        """As workers show it: `cpu`, or the card's name."""
        if self.torch_device.type == "cuda":
            return f"{self.torch_device} {torch.cuda.get_device_name(self.torch_device)}"
        return str(self.torch_device)

    def free_bytes(self) -> int:
        """Memory that rows of a batch may take now: what the settings allow or the device has, less a reserve for what
        decoding and scoring need beside them."""
        if self.torch_device.type == "cuda":
            taken = torch.cuda.memory_allocated(self.torch_device)
            free = torch.cuda.mem_get_info(self.torch_device)[0] + torch.cuda.memory_reserved(self.torch_device) - taken
        else:
            taken, free = resident_bytes(), available_bytes()
        if self._memory_bytes:
            free = min(free, self._memory_bytes - taken)
        return max(0, int(free * (1 - RESERVED)))

    def peak_bytes(self) -> int:
        """The most that was taken: of a GPU since the last question, elsewhere by the whole process ever."""
        if self.torch_device.type != "cuda":
            return peak_bytes()
        peak = torch.cuda.max_memory_allocated(self.torch_device)
        torch.cuda.reset_peak_memory_stats(self.torch_device)
        return peak

    def slots(self, row_bytes: int, used_bytes: int = 0) -> int:
        """How many rows of that size a batch may hold, that holds so much now. Raises OutOfMemory if it is none."""
        free = self.free_bytes() + used_bytes
        if free < row_bytes:
            raise OutOfMemory(
                f"one row takes {row_bytes / 2**20:.1f} MiB, {self.torch_device} has {free / 2**20:.1f} MiB free"
            )
        return min(self.rows, free // row_bytes)

    def _is_fast_in_bfloat16(self) -> bool:
        if self.torch_device.type == "cpu":  # by its own instruction; elsewhere bf16 is emulated, and slow
            return bool(torch.cpu._is_avx512_bf16_supported())
        return self.torch_device.type == "cuda" and torch.cuda.is_bf16_supported()

    def batch(self, kind: str, stepper: Stepper[R], linger_s: float = 0.0) -> Batch[R]:
        """A batch that jobs of `kind` share here; idle, it waits so long for more rows before it steps."""
        return Batch(kind, stepper, self.turn, self.device_lock, self.events, linger_s)

    @contextmanager
    def turn(self, kind: str) -> Iterator[Turn]:
        """Alone on the device, for one or more steps of a job of `kind`. Raises EngineError, OutOfMemory in place of
        what the models and torch raise."""
        self.device_lock.acquire()
        try:
            yield Turn(kind, self._on_step, self.device_lock.moved)
        except ModelError as error:
            raise EngineError(str(error)) from error
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if self.torch_device.type == "cuda":
                torch.cuda.empty_cache()
            raise OutOfMemory(f"{self.torch_device} has not enough memory for this job") from error
        finally:
            self.device_lock.release()

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
