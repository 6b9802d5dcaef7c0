"""What a batch needs of the device: rows to step, what steps them, time for it. Protocols only; no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from shared.errors import EngineError

__all__ = ["BatchEvents", "Row", "Stepper", "Turn"]


class Row(Protocol):
    """What steps: a sequence, a latent, a sample. Equal to itself alone; out of its slot it holds its whole state."""

    @property
    def done(self) -> bool:
        """Whether all its steps are taken."""

    @property
    def error(self) -> EngineError | None:
        """What makes it end before that, its neighbours not: NaN or infinity in its numbers."""


T_contra = TypeVar("T_contra", bound=Row, contravariant=True)


class Stepper(Protocol[T_contra]):
    """The device side of a batch. Called by one thread at a time, in its turn on the device."""

    @property
    def slots(self) -> int:
        """How many rows fit, by the memory that is there; at least 1."""

    def admit(self, rows: Sequence[T_contra]) -> None:
        """Give rows a slot; new ones, and such as were inside before and go on from where they left."""

    def leave(self, rows: Sequence[T_contra]) -> None:
        """Take rows out. What is needed to go on, or to be decoded, is with the row from here on."""

    def step(self) -> None:
        """One step of every row inside. Where it raises, the step can be taken again."""

    def shrink(self) -> bool:
        """After the device was full: hold or compute less at a time from here on; False where that is not possible."""

    def empty(self) -> None:
        """No rows for a while: give back the memory of the slots."""


class Turn(Protocol):
    """Time on the device; see worker.engines.scheduling.device."""

    @property
    def has_time(self) -> bool:
        """Whether another step may follow."""

    def stepped(self) -> None:
        """A step was taken."""


@dataclass(frozen=True)
class BatchEvents:
    """Who hears of what goes on in batches; each is told the kind first."""

    on_rows: Callable[[str, int, int], None] = lambda _kind, _rows, _slots: None  # before each step
    on_admitted: Callable[[str, float], None] = lambda _kind, _seconds: None  # a row got its first slot
    on_evicted: Callable[[str], None] = lambda _kind: None  # a row made room for another job's
    on_shrunk: Callable[[str], None] = lambda _kind: None  # the device was full; the batch goes on with less
    on_cache: Callable[[str, int, int], None] = lambda _cache, _hits, _misses: None  # not the kind, the cache's name
    on_memory: Callable[[str, int, int], None] = lambda _kind, _predicted, _used: None  # bytes, when rows came in
