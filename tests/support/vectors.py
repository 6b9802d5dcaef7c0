"""Rows for tests of the vector index. Their directions are random: fit for what is exact, never for recall."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from shared.specs.filters import AnyFilter, Column, Condition, Not, Or, type_of
from worker.vectors.index import Metadata, Row, Vectors

__all__ = ["COLUMNS", "is_match", "row_id", "some_rows", "unit"]

COLUMNS = {
    "color": Column("string", 0),
    "name": Column("string", 15),
    "size": Column("number", 0),
    "is_open": Column("boolean", 1),
}


def unit(vectors: Any) -> Vectors:
    """Of length one."""
    found = np.asarray(vectors, np.float32)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def row_id(name: object) -> str:
    """As pictures have them."""
    return f"img_{hashlib.sha256(str(name).encode()).hexdigest()}"


def some_rows(count: int, width: int = 8, *, seed: int = 0, metadata: Sequence[Metadata] = ()) -> list[Row]:
    """Distinct ones; the same for the same seed."""
    vectors = unit(np.random.default_rng(seed).normal(size=(count, width)))
    told = [*metadata, *[{}] * (count - len(metadata))]
    return [Row(row_id(f"{seed}-{at}"), vectors[at], told[at], 1_000 + at) for at in range(count)]


def is_match(filter_: AnyFilter, metadata: Metadata) -> bool:
    """What shared/specs/filters.py says, in plain Python: the reference for all implementations."""
    if isinstance(filter_, Not):
        return not is_match(filter_.not_, metadata)
    if isinstance(filter_, Or):
        return any(is_match(part, metadata) for part in filter_.any_)
    if not isinstance(filter_, Condition):
        return all(is_match(part, metadata) for part in filter_.all_)
    value = metadata.get(filter_.field)
    parts = []
    if filter_.exists is not None:
        parts.append((value is not None) == filter_.exists)
    if filter_.eq is not None:
        parts.append(_same(value, filter_.eq))
    if filter_.ne is not None:
        parts.append(not _same(value, filter_.ne))
    if filter_.in_ is not None:
        parts.append(any(_same(value, wanted) for wanted in filter_.in_))
    is_number = value is not None and type_of(value) == "number"
    for bound, holds in (
        (filter_.gt, lambda bound: value > bound),
        (filter_.gte, lambda bound: value >= bound),
        (filter_.lt, lambda bound: value < bound),
        (filter_.lte, lambda bound: value <= bound),
    ):
        if bound is not None:
            parts.append(is_number and holds(bound))
    return all(parts)


def _same(value: str | float | bool | None, wanted: str | float | bool) -> bool:
    return value is not None and type_of(value) == type_of(wanted) and value == wanted
