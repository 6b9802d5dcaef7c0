"""Kinds of other packages, by their entry points `dreamqueue.kinds`: `toy = "toy_kind:KIND"`, a Kind under its name.

A broken one is a line in the log and a kind less; it stops nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points

import structlog

from shared.specs.declaration import BadKind, Kind, check_kind

__all__ = ["GROUP", "Plugins", "find_plugins"]

GROUP = "dreamqueue.kinds"

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Plugins:
    """What is installed beside us."""

    kinds: Mapping[str, Kind]
    broken: frozenset[str]  # names whose declaration does not hold


def find_plugins(taken: Collection[str]) -> Plugins:
    """Load them all, in the order of their packages' names, so that every process comes to the same. Raises nothing."""
    kinds: dict[str, Kind] = {}
    broken: set[str] = set()
    for point in _points():
        try:
            kinds[point.name] = _declared(point, [*taken, *kinds])
        except (Exception, SystemExit) as error:  # another package's code: whatever it does
            log.error(
                "kind left out: its package is broken", kind=point.name, package=_package(point),
                entry_point=point.value, error=f"{type(error).__name__}: {' '.join(str(error).split())}"[:500],
            )  # fmt: skip
            broken.add(point.name)
    return Plugins(kinds, frozenset(broken - kinds.keys()))


def _points() -> list[EntryPoint]:
    try:
        return sorted(entry_points(group=GROUP), key=lambda point: (_package(point), point.name))
    except Exception as error:  # metadata of some package, not of ours
        log.error("no kinds of other packages: their metadata cannot be read", error=f"{type(error).__name__}: {error}")
        return []


def _declared(point: EntryPoint, taken: Collection[str]) -> Kind:
    if point.name in taken:
        raise BadKind(f"there is a kind {point.name} already")
    kind = check_kind(point.load())
    if kind.name != point.name:
        raise BadKind(f"the entry point {point.name} leads to the kind {kind.name}")
    return replace(kind, package=_package(point))


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value
