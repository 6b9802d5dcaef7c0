"""The running batches of an engine, one for all jobs that can step together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from worker.engines.scheduling.batch import Batch
from worker.engines.scheduling.device import Device
from worker.engines.scheduling.stepper import Row, Stepper

__all__ = ["BatchCache", "SharedBatch"]

R = TypeVar("R", bound=Row)
S = TypeVar("S", bound=Stepper[Any])


@dataclass(frozen=True)
class SharedBatch(Generic[R, S]):
    """A batch, and its stepper with all that one can do beside stepping."""

    batch: Batch[R]
    stepper: S


class BatchCache(Generic[R, S]):
    """Batches of jobs of `kind`. Thread-safe."""

    def __init__(self, device: Device, kind: str, linger_s: float = 0.0) -> None:
        """linger_s: see Device.batch."""
        self._device = device
        self._kind = kind
        self._linger_s = linger_s
        self._lock = threading.Lock()
        self._batches: dict[Hashable, SharedBatch[R, S]] = {}

    def get(self, key: Hashable, make: Callable[[], S]) -> SharedBatch[R, S]:
        """The batch of `key`; `make` gives its stepper when the first job asks for it. Where `make` computes on the
        device, the caller has the turn: taken in here, it would keep whoever asks for another key waiting unseen."""
        with self._lock:
            if key not in self._batches:
                stepper = make()
                self._batches[key] = SharedBatch(self._device.batch(self._kind, stepper, self._linger_s), stepper)
            return self._batches[key]
