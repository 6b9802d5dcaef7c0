"""What engines are built from: what they need to know of the worker they are in, and what those with models share.

Nothing here loads torch before an engine asks for a part that needs it: a worker of probes starts in a second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from worker.engines.scheduling.device_lock import DeviceLock
from worker.engines.scheduling.stepper import BatchEvents

if TYPE_CHECKING:
    from worker.engines.embedding.embedder import Embedder
    from worker.engines.library import ModelLibrary
    from worker.engines.scheduling.device import Device

__all__ = ["EngineOptions", "EngineParts", "SearchEvents"]


@dataclass(frozen=True)
class SearchEvents:
    """Told by the engines of collections; each does nothing unless it is given."""

    on_stage: Callable[[str, str, float], None] = lambda _what, _stage, _seconds: None  # `search` or `index`
    on_rows: Callable[[int, int, int], None] = lambda _added, _updated, _unchanged: None
    on_item_error: Callable[[str], None] = lambda _code: None


@dataclass(frozen=True)
class EngineOptions:
    """What engines need to know of the worker they are in."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    cpu_threads: int = 0  # of torch; 0: one per core
    weights_dir: str = ""  # the folder of registry.json; empty: the shipped models
    on_step: Callable[[str, float], None] = lambda _kind, _seconds: None  # after each step on the device
    device_lock: DeviceLock = field(default_factory=DeviceLock)  # on the device
    on_load: Callable[[str, float], None] = lambda _model, _seconds: None  # after each model is loaded
    events: BatchEvents = field(default_factory=BatchEvents)  # of batches
    search_events: SearchEvents = field(default_factory=SearchEvents)  # of indexing and searching
    memory_bytes: int = 0  # what engines may use of the device; 0 asks it what is free
    is_deterministic: bool = False  # batches of one shape: pictures equal to the last bit whatever is co-batched


@dataclass(frozen=True)
class EngineParts:
    """Given to every engine's `build`. One device, one library and one embedder for all engines of a worker."""

    options: EngineOptions

    @cached_property
    def device(self) -> Device:
        """Raises ModelUnavailable where it is not there."""
        from worker.engines.scheduling.device import Device

        options = self.options
        return Device(
            options.device, options.cpu_threads, options.on_step, options.device_lock,
            memory_bytes=options.memory_bytes, is_deterministic=options.is_deterministic, events=options.events,
        )  # fmt: skip

    @cached_property
    def library(self) -> ModelLibrary:
        """Raises ModelUnavailable where the device or the registry is not there."""
        from worker.engines.library import ModelLibrary

        return ModelLibrary(self.device.torch_device, self.options.weights_dir, self.options.on_load)

    @cached_property
    def embedder(self) -> Embedder:
        """Reads texts and sees pictures, for all engines together."""
        from worker.engines.embedding.embedder import Embedder

        return Embedder(self.library, self.device)
