"""A table's rows in memory: what a search reads. A snapshot never changes; a newer one shares memory where it can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.specs.filters import AnyFilter
from worker.vectors.conditions import Columns, Mask, Numbers, Texts, as_mask, plan
from worker.vectors.index import Int64s, Row, Vectors

__all__ = ["Snapshot"]

ROOM = 1.25  # memory is taken for so many times the rows, so that a few more need no copy
ID_BYTES = 125  # of one id as a Python string


@dataclass(frozen=True)
class Snapshot:
    """All rows of a table at one moment, the same position in every array."""

    ids: NDArray[Any]  # (N,) of str
    vectors: Vectors  # (N, D) float32, each row contiguous
    revisions: Int64s  # (N,)
    added_at_ms: Int64s  # (N,)
    cached: Mapping[str, Texts | Numbers]  # metadata by field
    columns: Columns  # by which the metadata was read
    room: _Room = field(repr=False)  # where the vectors lie

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.ids)

    @cached_property
    def bytes(self) -> int:
        """Of memory, about."""
        total = self.room.bytes + self.revisions.nbytes + self.added_at_ms.nbytes + self.rows * (ID_BYTES + 8)
        for column in self.cached.values():
            total += column.values.nbytes if isinstance(column, Numbers) else column.codes.nbytes
            total += sum(map(len, column.words)) + 100 * len(column.words) if isinstance(column, Texts) else 0
        return total

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {id_: at for at, id_ in enumerate(self.ids)}

    def position(self, id_: str) -> int | None:
        """Where a row is."""
        return self._positions.get(id_)

    def mask(self, filter_: AnyFilter | None, columns: Columns) -> Mask | None:
        """Which rows match; None where all do."""
        return None if filter_ is None else as_mask(plan(filter_, columns), self.cached, self.rows)

    def metadata(self, at: int) -> dict[str, str | float | bool]:
        """Of one row."""
        found = ((name, column.value(at)) for name, column in self.cached.items())
        return {name: value for name, value in found if value is not None}

    def row(self, at: int) -> Row:
        """One row, whole."""
        return Row(
            self.ids[at], self.vectors[at], self.metadata(at), int(self.added_at_ms[at]), int(self.revisions[at])
        )

    @classmethod
    def empty(cls, width: int, columns: Columns) -> Snapshot:
        """Of no rows."""
        none = np.zeros(0, np.int64)
        vectors = np.zeros((0, width), np.float32)
        return cls(np.zeros(0, object), vectors, none, none, _no_values(columns), columns, _Room(vectors))

    def changed(self, gone: Mask | None, new: Sequence[Row]) -> Snapshot:
        """Another one, without the rows that are `gone` and with the `new` ones behind the others. This one stays true:
        what both share is only ever written beyond its end."""
        kept = self._without(gone) if gone is not None and gone.any() else self
        return kept._with(new) if new else kept

    def _without(self, gone: Mask) -> Snapshot:
        kept = ~gone
        cached: dict[str, Texts | Numbers] = {
            name: Texts(column.codes[kept], column.words, column.code_of)
            if isinstance(column, Texts)
            else Numbers(column.values[kept], column.is_boolean)
            for name, column in self.cached.items()
        }
        vectors = self.vectors[kept]
        return Snapshot(
            self.ids[kept], vectors, self.revisions[kept], self.added_at_ms[kept], cached, self.columns, _Room(vectors)
        )

    def _with(self, new: Sequence[Row]) -> Snapshot:
        cached: dict[str, Texts | Numbers] = {}
        for name, column in self.cached.items():
            values = [row.metadata.get(name) for row in new]
            cached[name] = (
                _longer_texts(column, values) if isinstance(column, Texts) else _longer_numbers(column, values)
            )
        ids = np.empty(len(new), object)
        ids[:] = [row.id for row in new]
        more = np.stack([row.vector for row in new]).astype(np.float32, copy=False)
        room, vectors = self.room.behind(self.vectors, more)
        return Snapshot(
            np.concatenate([self.ids, ids]),
            vectors,
            np.concatenate([self.revisions, np.array([row.revision for row in new], np.int64)]),
            np.concatenate([self.added_at_ms, np.array([row.added_at_ms for row in new], np.int64)]),
            cached,
            self.columns,
            room,
        )


def _no_values(columns: Columns) -> dict[str, Texts | Numbers]:
    return {
        name: Texts(np.zeros(0, np.int32), [], {})
        if column.type == "string"
        else Numbers(np.zeros(0), column.type == "boolean")
        for name, column in columns.items()
    }


class _Room:
    """Memory for more vectors than there are, so that a few more need no copy of all."""

    def __init__(self, vectors: Vectors) -> None:
        self._memory = vectors
        self._used = len(vectors)  # by the longest snapshot that shares this memory; only that one may grow in place

    @property
    def bytes(self) -> int:
        """All of it."""
        return self._memory.nbytes

    def behind(self, vectors: Vectors, new: Vectors) -> tuple[_Room, Vectors]:
        """`vectors`, which lie at its start, with the new ones behind them, and where they lie then."""
        rows = len(vectors) + len(new)
        room: _Room = self
        if self._used != len(vectors) or len(self._memory) < rows:
            room = _Room(np.empty((int(rows * ROOM), new.shape[1]), np.float32))
            room._memory[: len(vectors)] = vectors
        room._memory[len(vectors) : rows] = new
        room._used = rows
        return room, room._memory[:rows]


def _longer_texts(column: Texts, values: Sequence[Any]) -> Texts:
    codes = np.full(len(values), -1, np.int32)
    for at, value in enumerate(values):
        if value is not None:
            code = column.code_of.setdefault(value, len(column.words))
            if code == len(column.words):
                column.words.append(value)
            codes[at] = code
    return Texts(np.concatenate([column.codes, codes]), column.words, column.code_of)


def _longer_numbers(column: Numbers, values: Sequence[Any]) -> Numbers:
    numbers = np.array([np.nan if value is None else float(value) for value in values])
    return Numbers(np.concatenate([column.values, numbers]), column.is_boolean)
