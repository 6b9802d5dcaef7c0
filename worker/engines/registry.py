"""The engines of the kinds that a worker serves. Only those are imported, with whatever they need."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from structlog.stdlib import get_logger

from shared.specs.kinds import Kind, broken_kinds, kinds
from worker.engines.base import Engine
from worker.engines.options import EngineOptions, EngineParts

__all__ = ["UnknownKind", "build_engines"]

log = get_logger(__name__)


class UnknownKind(ValueError):
    """The settings name a kind that does not exist, or none that can be served."""


def build_engines(names: Iterable[str], options: EngineOptions) -> dict[str, Engine]:
    """Engines by kind, nothing loaded yet. Kinds of other packages that are broken are left out, and a line in the log
    says so. Raises UnknownKind, ModelUnavailable."""
    asked = list(names)
    chosen = _chosen(asked)
    parts = EngineParts(options)
    built: dict[str, Engine | None] = {}  # by the import path; None where it is broken
    for kind in chosen:
        if kind.engine not in built:
            built[kind.engine] = _built(kind, parts)
    engines = {kind.name: engine for kind in chosen if (engine := built[kind.engine])}
    if asked and not engines:
        raise UnknownKind(f"of {', '.join(asked)}, nothing can be served; the log says why")
    return engines


def _chosen(names: list[str]) -> list[Kind]:
    """Without those whose declaration is broken. Raises UnknownKind."""
    known = kinds()
    unknown = sorted(set(names) - known.keys() - broken_kinds())
    if unknown:
        raise UnknownKind(f"there are no kinds {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names if name in known]


def _built(kind: Kind, parts: EngineParts) -> Engine | None:
    try:
        module, _, function = kind.engine.partition(":")
        engine: Engine = getattr(import_module(module), function)(parts)
    except (Exception, SystemExit) as error:
        if not kind.package:
            raise
        log.error(
            "kind not served: its package is broken", kind=kind.name, package=kind.package, engine=kind.engine,
            error=f"{type(error).__name__}: {' '.join(str(error).split())}"[:500],
        )  # fmt: skip
        return None
    return engine
