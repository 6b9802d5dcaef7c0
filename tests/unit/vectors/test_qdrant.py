"""What only a Qdrant server would see: indexes over fields, requests of bounded size, two creators at once."""

from __future__ import annotations

from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from tests.support.vectors import COLUMNS, some_rows
from worker.vectors.stores import qdrant
from worker.vectors.stores.qdrant import QdrantDatabase

WIDTH = 8


class Recording(QdrantClient):
    """The in-memory stand-in; it notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        self.indexed: list[tuple[str, str, Any]] = []
        self.sizes: list[int] = []
        self.is_late = False

    def create_payload_index(self, collection_name: str, field_name: str, field_schema: Any = None, **_: Any) -> Any:
        self.indexed.append((collection_name, field_name, field_schema))

    def upsert(self, collection_name: str, points: Any, **more: Any) -> Any:
        self.sizes.append(len(points))
        return super().upsert(collection_name, points, **more)

    def collection_exists(self, collection_name: str, **more: Any) -> bool:
        if self.is_late:  # another process makes it between this question and the next call
            self.is_late = False
            vectors = models.VectorParams(size=WIDTH, distance=models.Distance.COSINE)
            super().create_collection(collection_name, vectors_config=vectors)
            return False
        return super().collection_exists(collection_name, **more)


def test_each_field_gets_an_index_once() -> None:
    client = Recording()
    database = QdrantDatabase(client)
    table = database.open("one", WIDTH)
    table.put(some_rows(2), COLUMNS)
    database.open("one", WIDTH).put(some_rows(2, seed=1), COLUMNS)
    assert sorted(client.indexed) == [
        ("one", "m_color", models.PayloadSchemaType.KEYWORD),
        ("one", "m_is_open", models.PayloadSchemaType.BOOL),
        ("one", "m_name", models.PayloadSchemaType.KEYWORD),
        ("one", "m_size", models.PayloadSchemaType.FLOAT),
    ]
    database.drop("one")
    database.open("one", WIDTH).put(some_rows(1), {"color": COLUMNS["color"]})
    assert len(client.indexed) == 5  # the new table of that name has none yet


def test_requests_are_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant, "NUMBERS_AT_ONCE", 10 * WIDTH)
    client = Recording()
    table = QdrantDatabase(client, is_server=False).open("one", WIDTH)
    table.put(some_rows(25), COLUMNS)
    assert client.sizes == [10, 10, 5]
    assert table.count() == 25


def test_two_may_make_a_table_at_once() -> None:
    client = Recording()
    client.is_late = True
    assert QdrantDatabase(client, is_server=False).open("one", WIDTH).count() == 0


def test_it_is_not_worth_a_copy_in_memory() -> None:
    table = QdrantDatabase(Recording(), is_server=False).open("one", WIDTH)
    assert not table.is_local
    versions = [table.version() for _ in range(3)]
    assert versions == sorted(versions)
    assert versions[0] < 2**53  # the collection's record compares it in Lua
