"""Which engine serves which kind. What needs torch is imported only when such a kind is served: a worker of probes
starts in a second."""

from __future__ import annotations

from collections.abc import Collection

from shared.specs.kinds import KINDS
from worker.engines.base import Engine
from worker.engines.options import EngineOptions
from worker.engines.probe import ProbeEngine

__all__ = ["UnknownKind", "build_engines"]


class UnknownKind(ValueError):
    """The settings name a kind that does not exist."""


def build_engines(kinds: Collection[str], options: EngineOptions) -> dict[str, Engine]:
    """Engines by kind, nothing loaded yet. Raises UnknownKind."""
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise UnknownKind(f"there are no kinds {', '.join(unknown)}; there are {', '.join(KINDS)}")
    engines: list[Engine] = [ProbeEngine(options.on_step)]
    if set(kinds) - {"probe"}:
        from worker.engines.torch_engines import build_torch_engines

        engines += build_torch_engines(options)
    return {kind: engine for engine in engines for kind in engine.kinds if kind in kinds}
