"""Collections' vectors in a Qdrant server: for more than one machine's memory, with shards and replicas of its own.

Here it was only ever run against the client's own in-memory stand-in, which answers the same calls; never yet against a
server (deploy/decisions/0011-vector-index.md says what that leaves open).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException

from shared.errors import Conflict, VectorsUnavailable
from shared.specs.filters import AnyFilter
from worker.vectors.conditions import plan
from worker.vectors.index import Columns, Found, Int64s, Row, Vectors
from worker.vectors.stores.checks import check_rows
from worker.vectors.stores.qdrant_points import as_filter, payload_key, payload_of, point_id, row_of
from worker.vectors.stores.revisions import Revisions

__all__ = ["FOREIGN", "QdrantDatabase", "QdrantTable"]

FOREIGN: tuple[type[Exception], ...] = (
    ApiException,
    QdrantException,
    httpx.HTTPError,
    ValueError,
    RuntimeError,
    OSError,
)
TIMEOUT_S = 30
NUMBERS_AT_ONCE = 1_000_000  # of vectors in one request: about 12 MB of JSON; a server takes 32
IDS_AT_ONCE = 1_000
PAGE = 4_096
SEARCH_EF = 256  # candidates the graph search keeps: recall before speed
ROW_BYTES = 300  # of a row beside its vector, about
SCHEMAS = {
    "string": models.PayloadSchemaType.KEYWORD,
    "number": models.PayloadSchemaType.FLOAT,
    "boolean": models.PayloadSchemaType.BOOL,
}


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """The client's errors become ours, here and nowhere else."""
    try:
        yield
    except FOREIGN as error:
        raise VectorsUnavailable(f"Qdrant failed while {doing}: {type(error).__name__}: {str(error)[:300]}") from error


class QdrantDatabase:
    """`client`: connected. `is_server`: whether it speaks to a server, where fields get indexes of their own."""

    def __init__(self, client: QdrantClient, *, is_server: bool = True) -> None:
        self._client = client
        self.is_server = is_server
        self._revisions = Revisions()
        self._lock = threading.Lock()
        self._indexed: set[tuple[str, str]] = set()  # table and field

    @classmethod
    def at(cls, url: str, api_key: str = "") -> QdrantDatabase:
        """Of the server at `url`. Nothing is asked of it yet."""
        with _translated(f"opening {url}"):
            client = QdrantClient(url=url, api_key=api_key or None, timeout=TIMEOUT_S, check_compatibility=False)
        return cls(client)

    def open(self, table: str, width: int) -> QdrantTable:
        """The table, made when it is not there. Raises Conflict where it has vectors of another width."""
        with _translated(f"opening {table}"):
            if not self._client.collection_exists(table):
                self._create(table, width)
            vectors = self._client.get_collection(table).config.params.vectors
        has = vectors.size if isinstance(vectors, models.VectorParams) else 0
        if has != width:
            raise Conflict(f"the table {table} holds vectors of {has} numbers, not {width}")
        return QdrantTable(self._client, table, width, self)

    def _create(self, table: str, width: int) -> None:
        config = models.VectorParams(size=width, distance=models.Distance.COSINE)
        try:
            self._client.create_collection(table, vectors_config=config)
        except FOREIGN:
            if not self._client.collection_exists(table):  # else another process was first
                raise

    def drop(self, table: str) -> None:
        """Delete it; a missing one is no error."""
        with _translated(f"dropping {table}"):
            if self._client.collection_exists(table):
                self._client.delete_collection(table)
        with self._lock:
            self._indexed = {pair for pair in self._indexed if pair[0] != table}

    def tables(self) -> list[str]:
        """All there are."""
        with _translated("listing tables"):
            return [one.name for one in self._client.get_collections().collections]

    def draw(self, count: int) -> Int64s:
        """Revisions for rows to be written."""
        return self._revisions.draw(count)

    def index_fields(self, table: str, columns: Columns) -> None:
        """Ask the server for an index over each field, once; filters would else read every row."""
        if not self.is_server:
            return
        for name, column in columns.items():
            with self._lock:
                is_new = (table, name) not in self._indexed
                self._indexed.add((table, name))
            if is_new:
                self._client.create_payload_index(table, payload_key(name), SCHEMAS[column.type], wait=False)


class QdrantTable:
    """One table. Made by QdrantDatabase.open."""

    is_local = False

    def __init__(self, client: QdrantClient, name: str, width: int, database: QdrantDatabase) -> None:
        self._client = client
        self._name = name
        self.width = width
        self._database = database

    def put(self, rows: Sequence[Row], columns: Columns) -> None:
        """Write rows, replacing those of the same ids: one request, which a shard takes whole, for up to a million
        numbers of vectors; several beyond that, so that a failure between them leaves some rows to be put again."""
        last = check_rows(rows, columns, self.width)
        revisions = self._database.draw(len(last)).tolist()
        points = [
            models.PointStruct(
                id=point_id(row.id), vector=row.vector.tolist(), payload=payload_of(row, revision, columns)
            )
            for row, revision in zip(last, revisions, strict=True)
        ]
        at_once = max(1, NUMBERS_AT_ONCE // self.width)
        with _translated(f"writing to {self._name}"):
            self._database.index_fields(self._name, columns)
            for at in range(0, len(points), at_once):
                self._client.upsert(self._name, points[at : at + at_once], wait=True)

    def delete(self, ids: Collection[str]) -> int:
        """Remove rows; how many there were, as far as nobody else removed some at the same time."""
        there = sorted(self.known(ids))
        with _translated(f"deleting from {self._name}"):
            for at in range(0, len(there), IDS_AT_ONCE):
                points: list[Any] = [point_id(id_) for id_ in there[at : at + IDS_AT_ONCE]]
                self._client.delete(self._name, models.PointIdsList(points=points), wait=True)
        return len(there)

    def delete_where(self, filter_: AnyFilter, columns: Columns) -> int:
        """Remove what matches; how many there were, as far as nobody else removed some at the same time."""
        wanted = as_filter(plan(filter_, columns))
        with _translated(f"deleting from {self._name}"):
            matching = self._client.count(self._name, wanted, exact=True).count
            self._client.delete(self._name, models.FilterSelector(filter=wanted), wait=True)
        return int(matching)

    def known(self, ids: Collection[str]) -> set[str]:
        """Which of these ids are there."""
        return {str(record.payload["id"]) for record in self._retrieve(ids, ["id"], vectors=False)}

    def get(self, ids: Sequence[str], columns: Columns) -> dict[str, Row]:
        """Rows by id; missing ones are left out."""
        rows = [row_of(record.payload, record.vector, columns) for record in self._retrieve(ids, True, vectors=True)]
        return {row.id: row for row in rows}

    def _retrieve(self, ids: Collection[str], payload: Any, *, vectors: bool) -> Iterator[Any]:
        distinct = list(dict.fromkeys(ids))
        for at in range(0, len(distinct), IDS_AT_ONCE):
            points = [point_id(id_) for id_ in distinct[at : at + IDS_AT_ONCE]]
            with _translated(f"reading {self._name}"):
                found = self._client.retrieve(self._name, points, with_payload=payload, with_vectors=vectors)
            yield from found

    def count(self, filter_: AnyFilter | None = None, columns: Columns | None = None) -> int:
        """Rows now; those that match."""
        wanted = None if filter_ is None else as_filter(plan(filter_, columns or {}))
        with _translated(f"counting {self._name}"):
            return int(self._client.count(self._name, wanted, exact=True).count)

    def bytes(self) -> int:
        """An estimate: the server does not tell."""
        return self.count() * (self.width * 4 + ROW_BYTES)

    def version(self) -> int:
        """The time, in milliseconds: a server numbers no versions, and nothing here compares them for being equal."""
        return time.time_ns() // 1_000_000

    def revisions(self) -> Int64s:
        """Of all rows."""
        found = [record.payload["revision"] for page in self._pages(None, ["revision"], PAGE, False) for record in page]
        return np.array(found, np.int64)

    def scan(self, columns: Columns, *, revisions: Int64s | None = None, batch: int = 8_192) -> Iterator[list[Row]]:
        """All rows, or those of these revisions that are still there. Rows written meanwhile may or may not be in."""
        wanted: list[models.Filter | None] = [None]
        if revisions is not None:
            values = [int(revision) for revision in revisions]
            wanted = [
                models.Filter(
                    must=[
                        models.FieldCondition(key="revision", match=models.MatchAny(any=values[at : at + IDS_AT_ONCE]))
                    ]
                )
                for at in range(0, len(values), IDS_AT_ONCE)
            ]
        for one in wanted:
            for page in self._pages(one, True, batch, True):
                yield [row_of(record.payload, record.vector, columns) for record in page]

    def _pages(self, wanted: models.Filter | None, payload: Any, size: int, vectors: bool) -> Iterator[list[Any]]:
        at: Any = None
        while True:
            with _translated(f"reading {self._name}"):
                page, at = self._client.scroll(
                    self._name, wanted, limit=size, offset=at, with_payload=payload, with_vectors=vectors
                )
            if page:
                yield page
            if at is None:
                return

    def search(self, vector: Vectors, limit: int, columns: Columns, filter_: AnyFilter | None = None) -> list[Found]:
        """The rows of highest cosine, best first, by the server's graph."""
        wanted = None if filter_ is None else as_filter(plan(filter_, columns))
        with _translated(f"searching {self._name}"):
            points = self._client.query_points(
                self._name,
                query=np.asarray(vector, np.float32).tolist(),
                query_filter=wanted,
                limit=limit,
                search_params=models.SearchParams(hnsw_ef=SEARCH_EF) if self._database.is_server else None,
                with_payload=True,
                with_vectors=True,
            ).points
        return [Found(row_of(point.payload or {}, point.vector, columns), float(point.score)) for point in points]

    def optimize(self, *, is_large: bool) -> None:
        """Nothing to do: a server tends to its own."""
