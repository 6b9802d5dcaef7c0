"""Rows as LanceDB holds them: one schema for every table, its metadata columns numbered and there from the start, so
that a new field never changes a table that others write to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from shared.specs.filters import MAX_FIELDS_OF_TYPE, Column
from worker.vectors.conditions import column_name
from worker.vectors.index import Columns, Int64s, Metadata, Row, Vectors

__all__ = ["batch_of", "fields_of", "rows_of", "schema_of", "vectors_of"]

# Without a key the store would let two writers insert the same new id at once, and keep both rows.
KEY = {"lance-schema:unenforced-primary-key:position": "1"}


def schema_of(width: int) -> pa.Schema:
    """Of a table whose vectors have `width` numbers."""
    slots = range(MAX_FIELDS_OF_TYPE)
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False, metadata=KEY),
            pa.field("vector", pa.list_(pa.float32(), width)),
            pa.field("revision", pa.int64()),
            pa.field("added_at_ms", pa.int64()),
            *(pa.field(column_name(Column("string", slot)), pa.string()) for slot in slots),
            *(pa.field(column_name(Column("number", slot)), pa.float64()) for slot in slots),
        ]
    )


def fields_of(columns: Columns) -> list[str]:
    """What must be read to have whole rows."""
    return ["id", "vector", "revision", "added_at_ms", *sorted(column_name(column) for column in columns.values())]


def batch_of(rows: Sequence[Row], revisions: Int64s, columns: Columns, width: int) -> pa.RecordBatch:
    """Rows to be written, one of each id (worker/vectors/stores/checks.py)."""
    vectors = np.stack([row.vector for row in rows]).astype(np.float32, copy=False)
    schema = schema_of(width)
    arrays: dict[str, Any] = {
        "id": pa.array([row.id for row in rows], pa.string()),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width),
        "revision": pa.array(revisions),
        "added_at_ms": pa.array([row.added_at_ms for row in rows], pa.int64()),
    }
    for name, column in columns.items():
        values = [row.metadata.get(name) for row in rows]
        if column.type == "string":
            arrays[column_name(column)] = pa.array(values, pa.string())
        else:  # -0.0 becomes 0.0, which Arrow would tell apart
            numbers = [None if value is None else float(value) + 0.0 for value in values]
            arrays[column_name(column)] = pa.array(numbers, pa.float64())
    for at in schema:
        arrays.setdefault(at.name, pa.nulls(len(rows), at.type))
    return pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)


def vectors_of(batch: pa.RecordBatch, width: int) -> Vectors:
    """(rows, width), without a copy where Arrow allows it."""
    flat = batch.column("vector").flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float32).reshape(-1, width)


def rows_of(batch: pa.RecordBatch, columns: Columns, width: int) -> list[Row]:
    """What was read, with booleans as booleans again. The rows' vectors are views of one array."""
    metadata: list[dict[str, str | float | bool]] = [{} for _ in range(batch.num_rows)]
    for name, column in columns.items():
        values = batch.column(column_name(column))
        if values.null_count == batch.num_rows:
            continue
        is_boolean = column.type == "boolean"
        for at, value in enumerate(values.to_pylist()):
            if value is not None:
                metadata[at][name] = bool(value) if is_boolean else value
    return [
        _row(*parts)
        for parts in zip(
            batch.column("id").to_pylist(),
            vectors_of(batch, width),
            metadata,
            batch.column("added_at_ms").to_pylist(),
            batch.column("revision").to_pylist(),
            strict=True,
        )
    ]


def _row(id_: str, vector: Vectors, metadata: Metadata, added_at_ms: int, revision: int) -> Row:
    return Row(id_, vector, metadata, added_at_ms, revision)
