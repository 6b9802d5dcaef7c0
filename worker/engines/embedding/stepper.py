"""What CLIP is to look at or to read, of all jobs together: whatever has come when the device is free, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from shared.errors import NonFinite

__all__ = ["Embedded", "EmbeddingStepper"]

T = TypeVar("T")


@dataclass(eq=False)
class Embedded(Generic[T]):
    """A picture (3, H, W) in [0, 1] or a caption; `vector` (D,) of unit length once it was looked at."""

    value: T
    what: str  # for the message
    vector: Tensor | None = None
    is_finite: bool = True

    @property
    def done(self) -> bool:
        """See Row."""
        return self.vector is not None

    @property
    def error(self) -> NonFinite | None:
        """See Row."""
        return None if self.is_finite else NonFinite(f"the model made {self.what} that holds NaN or infinity")


class EmbeddingStepper(Generic[T]):
    """See worker.engines.scheduling.stepper.Stepper; one step is all that a row needs."""

    def __init__(self, encode: Callable[[Sequence[T]], Tensor], slots: int) -> None:
        self._encode = encode
        self._max_rows = slots
        self._inside: list[Embedded[T]] = []

    @property
    def slots(self) -> int:
        """See Stepper."""
        return self._max_rows

    def admit(self, rows: Sequence[Embedded[T]]) -> None:
        """See Stepper."""
        self._inside += rows

    def leave(self, rows: Sequence[Embedded[T]]) -> None:
        """See Stepper."""
        self._inside = [row for row in self._inside if row not in rows]

    @torch.inference_mode()
    def step(self) -> None:
        """See Stepper."""
        vectors = self._encode([row.value for row in self._inside])
        finite = vectors.isfinite().all(1).tolist()
        for row, vector, is_finite in zip(self._inside, vectors.clone().unbind(), finite, strict=True):
            row.vector, row.is_finite = vector, is_finite

    def shrink(self) -> bool:
        """See Stepper."""
        if self._max_rows == 1:
            return False
        self._max_rows //= 2
        return True

    def empty(self) -> None:
        """See Stepper. A row holds nothing on the device."""
