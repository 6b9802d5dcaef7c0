"""What engines need to know of the worker they are in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from worker.engines.scheduling.batch import BatchEvents
from worker.engines.scheduling.device_lock import DeviceLock
from worker.engines.search.stages import SearchEvents

__all__ = ["EngineOptions"]


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
