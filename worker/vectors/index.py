"""What every vector index offers. One conformance suite runs over all of them (tests/contract/test_vectors.py).

A row is a picture: its id, a unit vector, metadata. Ids are unique in a table; writing a row of a known id replaces it.
A table may be written, read and deleted from by many processes at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.specs.filters import AnyFilter, Column

__all__ = ["Columns", "Found", "Int64s", "Metadata", "Row", "VectorDatabase", "VectorTable", "Vectors"]

Vectors = NDArray[np.float32]  # (N, D) or (D,), unit length
Int64s = NDArray[np.int64]
Metadata = Mapping[str, str | float | bool]
Columns = Mapping[str, Column]  # by metadata field


@dataclass(frozen=True)
class Row:
    """One picture."""

    id: str  # img_<sha256>
    vector: Vectors  # (D,)
    metadata: Metadata = field(default_factory=dict)
    added_at_ms: int = 0
    revision: int = 0  # drawn by the table at each write: another one after each replacement, growing with time


@dataclass(frozen=True)
class Found:
    """A row and its cosine with what was asked for."""

    row: Row
    cosine: float


class VectorTable(Protocol):
    """One collection's vectors by one model. Thread-safe. Raises VectorsUnavailable."""

    is_local: bool  # whether its rows are worth keeping in memory here: not where a server answers by itself
    width: int  # of its vectors

    def put(self, rows: Sequence[Row], columns: Columns) -> None:
        """Write rows, replacing those of the same ids; all or nothing."""

    def delete(self, ids: Collection[str]) -> int:
        """Remove rows; how many there were."""

    def delete_where(self, filter_: AnyFilter, columns: Columns) -> int:
        """Remove what matches; how many there were."""

    def known(self, ids: Collection[str]) -> set[str]:
        """Which of these ids are there."""

    def get(self, ids: Sequence[str], columns: Columns) -> dict[str, Row]:
        """Rows by id; missing ones are left out."""

    def count(self, filter_: AnyFilter | None = None, columns: Columns | None = None) -> int:
        """Rows now; those that match."""

    def bytes(self) -> int:
        """What they take, as far as the index knows."""

    def version(self) -> int:
        """Never falls, and grows with each write."""

    def revisions(self) -> Int64s:
        """Of all rows, in no order: what a cache compares with what it has."""

    def scan(self, columns: Columns, *, revisions: Int64s | None = None, batch: int = 8_192) -> Iterator[list[Row]]:
        """All rows, or those of these revisions that are still there, in no order."""

    def search(self, vector: Vectors, limit: int, columns: Columns, filter_: AnyFilter | None = None) -> list[Found]:
        """The rows of highest cosine, best first; approximate on a large table. The filter comes before the ranking."""

    def optimize(self, *, is_large: bool) -> None:
        """Compact what many small writes left behind; where the table is large, build or extend its approximate index.
        May take long; readers and writers go on meanwhile."""


class VectorDatabase(Protocol):
    """Where tables lie. Opened after a process has forked, never across."""

    def open(self, table: str, width: int) -> VectorTable:
        """The table, made when it is not there."""

    def drop(self, table: str) -> None:
        """Delete it; a missing one is no error."""

    def tables(self) -> list[str]:
        """All there are."""
