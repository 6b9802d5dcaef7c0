"""A filter, made plain: what it says of a table's columns, with no optional parts left. Then as SQL and as a mask.

Both are two-valued as shared/specs/filters.py says: a row without a value is in no `OneOf` and no `Between`, hence in
every `Complement` of one. Qdrant's form is in worker/vectors/stores/qdrant_points.py. A test holds all of them to plain
Python.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.specs.filters import AnyFilter, Column, Condition, Not, Or, type_of

__all__ = [
    "Between", "Columns", "Complement", "Every", "Mask", "Node", "Numbers", "OneOf", "Present", "Some", "Texts",
    "as_mask", "as_sql", "column_name", "plan",
]  # fmt: skip

Columns = Mapping[str, Column]  # by metadata field
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class OneOf:
    """The field holds one of these, all of the column's type; never empty."""

    field: str
    column: Column
    values: tuple[str | bool | float, ...]


@dataclass(frozen=True)
class Between:
    """The field, a number, keeps all the bounds that are not None."""

    field: str
    column: Column
    gt: float | None
    gte: float | None
    lt: float | None
    lte: float | None


@dataclass(frozen=True)
class Present:
    """The field holds something."""

    field: str
    column: Column


@dataclass(frozen=True)
class Complement:
    """All rows but those."""

    part: Node


@dataclass(frozen=True)
class Every:
    """In all of these; of none: every row."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Some:
    """In at least one of these; of none: no row."""

    parts: tuple[Node, ...]


Node = OneOf | Between | Present | Complement | Every | Some


def plan(filter_: AnyFilter | None, columns: Columns) -> Node:
    """What the filter says of these columns. No filter says every row; a field that no row has yet holds nothing."""
    if filter_ is None:
        return Every(())
    if isinstance(filter_, Condition):
        return _condition(filter_, columns.get(filter_.field))
    if isinstance(filter_, Not):
        return Complement(plan(filter_.not_, columns))
    if isinstance(filter_, Or):
        return Some(tuple(plan(part, columns) for part in filter_.any_))
    return Every(tuple(plan(part, columns) for part in filter_.all_))


def _condition(condition: Condition, column: Column | None) -> Node:
    parts: list[Node] = []
    if condition.exists is not None:
        parts.append(_existing(condition, column))
    if condition.eq is not None:
        parts.append(_one_of(condition.field, column, [condition.eq]))
    if condition.ne is not None:
        parts.append(Complement(_one_of(condition.field, column, [condition.ne])))
    if condition.in_ is not None:
        parts.append(_one_of(condition.field, column, condition.in_))
    if condition.is_by_size:
        parts.append(_sized(condition, column))
    return parts[0] if len(parts) == 1 else Every(tuple(parts))


def _existing(condition: Condition, column: Column | None) -> Node:
    present: Node = Some(()) if column is None else Present(condition.field, column)
    return present if condition.exists else Complement(present)


def _sized(condition: Condition, column: Column | None) -> Node:
    if column is None or column.type != "number":
        return Some(())
    bounds = (condition.gt, condition.gte, condition.lt, condition.lte)
    return Between(condition.field, column, *map(_number, bounds))


def _one_of(name: str, column: Column | None, values: list[str | bool | float]) -> Node:
    fitting = tuple(value for value in values if column is not None and type_of(value) == column.type)
    return OneOf(name, column, fitting) if column is not None and fitting else Some(())


def _number(bound: float | None) -> float | None:
    return None if bound is None else float(bound) + 0.0  # -0.0 is 0.0, which Arrow would tell apart


def column_name(column: Column) -> str:
    """Of a column in a table: s00 to s15 hold strings, n00 to n15 numbers and booleans (as 0 and 1)."""
    return f"{'s' if column.type == 'string' else 'n'}{column.slot:02d}"


def as_sql(node: Node) -> str:
    """For DataFusion, which LanceDB speaks."""
    match node:
        case OneOf(_, column, values):
            name = column_name(column)
            return f"({name} IS NOT NULL AND {name} IN ({', '.join(map(_literal, values))}))"
        case Between(_, column):
            name = column_name(column)
            bounds = [f"{name} {sign} {bound!r}" for sign, bound in _bounds(node)]
            return f"({' AND '.join([f'{name} IS NOT NULL', *bounds])})"
        case Present(_, column):
            return f"({column_name(column)} IS NOT NULL)"
        case Complement(part):
            return f"(NOT {as_sql(part)})"
        case Every(parts):
            return f"({' AND '.join(map(as_sql, parts))})" if parts else "true"
        case Some(parts):
            return f"({' OR '.join(map(as_sql, parts))})" if parts else "false"


def _literal(value: str | bool | float) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(float(value) + 0.0)


def _bounds(node: Between) -> list[tuple[str, float]]:
    given = ((">", node.gt), (">=", node.gte), ("<", node.lt), ("<=", node.lte))
    return [(sign, bound) for sign, bound in given if bound is not None]


@dataclass(frozen=True)
class Texts:
    """A column of strings in memory. Its vocabulary only grows, so that older codes stay true."""

    codes: NDArray[np.int32]  # (N,), -1: no value
    words: list[str]  # by code
    code_of: dict[str, int] = field(repr=False)

    def value(self, row: int) -> str | None:
        """Of one row."""
        code = int(self.codes[row])
        return None if code < 0 else self.words[code]


@dataclass(frozen=True)
class Numbers:
    """A column of numbers, or of booleans as 0 and 1, in memory."""

    values: NDArray[np.float64]  # (N,), NaN: no value
    is_boolean: bool

    def value(self, row: int) -> float | bool | None:
        """Of one row."""
        value = float(self.values[row])
        if math.isnan(value):
            return None
        return bool(value) if self.is_boolean else value


def as_mask(node: Node, columns: Mapping[str, Texts | Numbers], rows: int) -> Mask:
    """Which of the rows match. `columns`: the columns by field; a field that is not there holds nothing."""
    match node:
        case OneOf(name, _, values):
            return _equal(columns.get(name), values, rows)
        case Between(name):
            numbers = columns.get(name)
            return _between(node, numbers.values) if isinstance(numbers, Numbers) else np.zeros(rows, bool)
        case Present(name):
            return _filled(columns.get(name), rows)
        case Complement(part):
            return ~as_mask(part, columns, rows)
        case Every(parts):
            mask = np.ones(rows, bool)
            for part in parts:
                mask &= as_mask(part, columns, rows)
            return mask
        case Some(parts):
            mask = np.zeros(rows, bool)
            for part in parts:
                mask |= as_mask(part, columns, rows)
            return mask


def _filled(column: Texts | Numbers | None, rows: int) -> Mask:
    if column is None:
        return np.zeros(rows, bool)
    return column.codes >= 0 if isinstance(column, Texts) else ~np.isnan(column.values)


def _equal(column: Texts | Numbers | None, values: tuple[str | bool | float, ...], rows: int) -> Mask:
    if column is None:
        return np.zeros(rows, bool)
    if isinstance(column, Numbers):
        wanted: list[float] = [float(value) for value in values]
        return column.values == wanted[0] if len(wanted) == 1 else np.isin(column.values, wanted)
    codes = [column.code_of[value] for value in values if value in column.code_of]
    if not codes:
        return np.zeros(rows, bool)
    return column.codes == codes[0] if len(codes) == 1 else np.isin(column.codes, codes)


def _between(node: Between, values: NDArray[np.float64]) -> Mask:
    compare = {">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal}
    mask: Mask = ~np.isnan(values)
    for sign, bound in _bounds(node):
        mask &= compare[sign](values, bound)
    return mask
