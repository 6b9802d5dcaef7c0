"""Which engine serves which kind. What needs torch is imported only when such a kind is served: a worker of probes
starts in a second."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from shared.specs import KINDS
from worker.engines.base import Engine
from worker.engines.batch import BatchEvents
from worker.engines.probe import ProbeEngine
from worker.engines.stages import SearchEvents
from worker.engines.turns import Turns

__all__ = ["EngineOptions", "UnknownKind", "build_engines"]


class UnknownKind(ValueError):
    """The settings name a kind that does not exist."""


@dataclass(frozen=True)
class EngineOptions:
    """What engines need to know of the worker they are in."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    cpu_threads: int = 0  # of torch; 0: one per core
    weights_dir: str = ""  # the folder of registry.json; empty: the shipped models
    on_step: Callable[[str, float], None] = lambda _kind, _seconds: None  # after each step on the device
    turns: Turns = field(default_factory=Turns)  # on the device
    on_load: Callable[[str, float], None] = lambda _model, _seconds: None  # after each model is loaded
    events: BatchEvents = field(default_factory=BatchEvents)  # of batches
    search_events: SearchEvents = field(default_factory=SearchEvents)  # of indexing and searching
    memory_bytes: int = 0  # what engines may use of the device; 0 asks it what is free
    is_pinned: bool = False  # batches of one shape: pictures equal to the last bit in any company


def build_engines(kinds: Collection[str], options: EngineOptions) -> dict[str, Engine]:
    """Engines by kind, nothing loaded yet. Raises UnknownKind."""
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise UnknownKind(f"there are no kinds {', '.join(unknown)}; there are {', '.join(KINDS)}")
    engines: list[Engine] = [ProbeEngine(options.on_step)]
    if set(kinds) - {"probe"}:
        from worker.engines.on_device import build_device_engines

        engines += build_device_engines(options)
    return {kind: engine for engine in engines for kind in engine.kinds if kind in kinds}
