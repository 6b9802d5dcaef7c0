"""Collections' vectors in LanceDB tables: in a folder that many processes share, or in an S3 bucket.

Each write is one commit, which others' readers see whole or not at all; each read looks for the newest commit. Facts
and traps: deploy/decisions/0011-vector-index.md.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import BTree, IvfFlat

from shared.errors import Conflict, VectorsUnavailable
from shared.specs.filters import AnyFilter
from worker.vectors.conditions import as_sql, plan
from worker.vectors.index import Columns, Found, Int64s, Row, Vectors
from worker.vectors.stores.checks import check_rows
from worker.vectors.stores.lance_faults import insisting, is_conflict, translated
from worker.vectors.stores.lance_rows import batch_of, fields_of, rows_of, schema_of
from worker.vectors.stores.revisions import Revisions

__all__ = ["LanceDatabase", "LanceTable"]

IDS_AT_ONCE = 1_000  # ids in one SQL text, about 75 kB
ROWS_AT_ONCE = 262_144  # in a read of revisions alone: eight bytes a row
OLD_VERSION = timedelta(hours=1)  # longer than any reader takes; compaction deletes the files of older versions
TIDY_PATIENCE_S = 5.0  # joining files is given up after conflicts with writers for so long
KEYED_ROWS = 10_000  # with more rows, looking an id up by an index is worth keeping one
PARTITION_ROWS = 1_000  # rows in a partition of the approximate index, on average
PROBES = 24  # partitions that a search looks into at least; more where a filter leaves too few rows in them
FEW_ROWS = 2_000  # so few that pass a filter are compared one by one: as fast, and the index could miss some


class LanceDatabase:
    """`uri`: a folder, or s3://bucket/prefix with LanceDB's storage options. Connects at the first use, and is of no
    use in a process that was forked after it: open another one there. Thread-safe."""

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        self._uri = uri
        self._options = dict(storage_options) if storage_options else None
        self._lock = threading.Lock()
        self._connection: Any = None
        self._process = 0
        self._revisions = Revisions()

    def open(self, table: str, width: int) -> LanceTable:
        """The table, made when it is not there. Raises Conflict where it has vectors of another width."""
        connection = self._connected()
        with translated(f"opening {table}"):
            try:
                handle = connection.open_table(table)
            except ValueError:  # it is not there; should it be made meanwhile, that one is taken
                handle = insisting(lambda: connection.create_table(table, schema=schema_of(width), exist_ok=True))
            has = handle.schema.field("vector").type.list_size
        if has != width:
            raise Conflict(f"the table {table} holds vectors of {has} numbers, not {width}")
        return LanceTable(handle, table, width, self._revisions)

    def drop(self, table: str) -> None:
        """Delete it; a missing one is no error."""
        connection = self._connected()
        if table in self.tables():
            with translated(f"dropping {table}"):
                connection.drop_table(table, ignore_missing=True)

    def tables(self) -> list[str]:
        """All there are."""
        connection = self._connected()
        names: list[str] = []
        token = None
        with translated("listing tables"):
            while True:
                page = connection.list_tables(page_token=token, limit=1_000)
                names += page.tables
                token = page.page_token
                if not token or not page.tables:
                    return names

    def _connected(self) -> Any:
        with self._lock:
            if self._connection is None:
                with translated(f"opening {self._uri}"):
                    self._connection = lancedb.connect(
                        self._uri, storage_options=self._options, read_consistency_interval=timedelta(0)
                    )
                self._process = os.getpid()
            if self._process != os.getpid():
                raise VectorsUnavailable("the vector index was opened before this process forked; open it anew")
            return self._connection


class LanceTable:
    """One table. Made by LanceDatabase.open."""

    is_local = True

    def __init__(self, handle: Any, name: str, width: int, revisions: Revisions) -> None:
        self._handle = handle
        self._name = name
        self.width = width
        self._revisions = revisions

    def put(self, rows: Sequence[Row], columns: Columns) -> None:
        """Write rows, replacing those of the same ids; all or nothing. Of two rows with one id the last counts.
        Raises InvalidInput and NonFinite for rows that no table takes."""
        last = check_rows(rows, columns, self.width)
        if not last:
            return
        with translated(f"writing to {self._name}"):
            batch = batch_of(last, self._revisions.draw(len(last)), columns, self.width)
            insisting(
                lambda: (
                    self._handle.merge_insert("id")
                    .when_matched_update_all()
                    .when_not_matched_insert_all()
                    .execute(batch)
                )
            )

    def delete(self, ids: Collection[str]) -> int:
        """Remove rows; how many there were."""
        return sum(self._delete(_among(chunk)) for chunk in _chunks(ids))

    def delete_where(self, filter_: AnyFilter, columns: Columns) -> int:
        """Remove what matches; how many there were."""
        return self._delete(as_sql(plan(filter_, columns)))

    def _delete(self, condition: str) -> int:
        with translated(f"deleting from {self._name}"):
            return int(insisting(lambda: self._handle.delete(condition)).num_deleted_rows)

    def known(self, ids: Collection[str]) -> set[str]:
        """Which of these ids are there."""
        found: set[str] = set()
        for chunk in _chunks(ids):
            with translated(f"reading {self._name}"):
                found.update(self._handle.search().where(_among(chunk)).select(["id"]).to_arrow()["id"].to_pylist())
        return found

    def get(self, ids: Sequence[str], columns: Columns) -> dict[str, Row]:
        """Rows by id; missing ones are left out."""
        return {row.id: row for chunk in _chunks(ids) for row in self._read(columns, _among(chunk))}

    def count(self, filter_: AnyFilter | None = None, columns: Columns | None = None) -> int:
        """Rows now; those that match."""
        condition = None if filter_ is None else as_sql(plan(filter_, columns or {}))
        with translated(f"counting {self._name}"):
            return int(self._handle.count_rows(condition))

    def bytes(self) -> int:
        """Data and index files of the newest version."""
        with translated(f"measuring {self._name}"):
            return int(self._handle.stats()["total_bytes"])

    def version(self) -> int:
        """Of the newest commit."""
        with translated(f"reading {self._name}"):
            return int(self._handle.version)

    def revisions(self) -> Int64s:
        """Of all rows."""
        with translated(f"reading {self._name}"):
            # Ten times as fast as to_arrow, which reads pieces of a thousand rows.
            parts = self._handle.search().select(["revision"]).to_batches(batch_size=ROWS_AT_ONCE)
            columns = [part.column("revision").to_numpy() for part in parts]
        return np.concatenate([np.zeros(0, np.int64), *columns])

    def scan(self, columns: Columns, *, revisions: Int64s | None = None, batch: int = 8_192) -> Iterator[list[Row]]:
        """All rows of one version, or those of these revisions that are still there."""
        if revisions is None:
            yield from self._batches(columns, None, batch)
        elif revisions.size:
            wanted = {int(revision) for revision in revisions}
            # New rows are close to each other in time: what lies between the first and the last is little more.
            condition = f"revision >= {revisions.min()} AND revision <= {revisions.max()}"
            for rows in self._batches(columns, condition, batch):
                if kept := [row for row in rows if row.revision in wanted]:
                    yield kept

    def search(self, vector: Vectors, limit: int, columns: Columns, filter_: AnyFilter | None = None) -> list[Found]:
        """The rows of highest cosine, best first: exact until `optimize` was told that the table is large."""
        with translated(f"searching {self._name}"):
            query = self._handle.search(np.asarray(vector, np.float32), vector_column_name="vector")
            query = query.distance_type("cosine").limit(limit).select([*fields_of(columns), "_distance"])
            query = query.minimum_nprobes(PROBES).maximum_nprobes(0)
            if filter_ is not None:
                condition = as_sql(plan(filter_, columns))
                query = query.where(condition, prefilter=True)
                if self._handle.count_rows(condition) <= FEW_ROWS:
                    query = query.bypass_vector_index()
            found = query.to_arrow()
            cosines = (1.0 - found["_distance"].to_numpy()).tolist()
            rows = [row for part in found.to_batches() for row in rows_of(part, columns, self.width)]
        return [Found(row, cosine) for row, cosine in zip(rows, cosines, strict=True)]

    def optimize(self, *, is_large: bool) -> None:
        """Join small files, forget versions that nobody reads any more; build or extend the indexes. Where others write
        all the time, what was not possible is left for the next time."""
        with translated(f"tidying {self._name}"):
            try:
                self._tidy(is_large)
            except (RuntimeError, ValueError, OSError) as error:
                if not is_conflict(error):
                    raise

    def _tidy(self, is_large: bool) -> None:
        indexed = {column for index in self._handle.list_indices() for column in index.columns}
        if "id" not in indexed and self._handle.count_rows() >= KEYED_ROWS:
            insisting(lambda: self._handle.create_index("id", config=BTree()))
        if is_large and "vector" not in indexed:
            parts = max(1, self._handle.count_rows() // PARTITION_ROWS)
            config = IvfFlat(distance_type="cosine", num_partitions=parts)
            insisting(lambda: self._handle.create_index("vector", config=config))
        insisting(lambda: self._handle.optimize(cleanup_older_than=OLD_VERSION), TIDY_PATIENCE_S)

    def _read(self, columns: Columns, condition: str) -> list[Row]:
        with translated(f"reading {self._name}"):
            found = self._handle.search().where(condition).select(fields_of(columns)).to_arrow()
            return [row for part in found.to_batches() for row in rows_of(part, columns, self.width)]

    def _batches(self, columns: Columns, condition: str | None, batch: int) -> Iterator[list[Row]]:
        with translated(f"reading {self._name}"):
            query = self._handle.search().select(fields_of(columns))
            if condition is not None:
                query = query.where(condition)
            batches = iter(query.to_batches(batch_size=batch))
        while True:
            with translated(f"reading {self._name}"):
                part: pa.RecordBatch | None = next(batches, None)
                if part is None:
                    return
                rows = rows_of(part, columns, self.width)
            yield rows


def _chunks(ids: Collection[str]) -> Iterator[list[str]]:
    distinct = list(dict.fromkeys(ids))
    for at in range(0, len(distinct), IDS_AT_ONCE):
        yield distinct[at : at + IDS_AT_ONCE]


def _among(ids: Sequence[str]) -> str:
    texts = ", ".join("'" + id_.replace("'", "''") + "'" for id_ in ids)
    return f"id IN ({texts})"
