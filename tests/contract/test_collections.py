"""Collections' records: made once, bound to one model, followed through writes, switched and deleted whole."""

from __future__ import annotations

import pytest

from shared.errors import CollectionMoved, Conflict, InvalidInput, NotFound
from shared.settings import Settings
from shared.specs.filters import Column
from shared.store.collections import MAX_COLLECTIONS, CollectionStore
from shared.store.jobs import JobStore


@pytest.fixture
def collections(store: JobStore, settings: Settings) -> CollectionStore:
    return CollectionStore(store.redis, settings)


def test_a_collection_is_made_once_and_is_its_tenants(collections: CollectionStore, tenant: str) -> None:
    made, is_new = collections.create(tenant, "cats", "emoji-clip", description="of mine")
    again, is_new_again = collections.create(tenant, "cats", "emoji-clip")
    assert (is_new, is_new_again) == (True, False)
    assert made == again
    assert (made.rows, made.width, made.fields, made.description) == (0, 0, {}, "of mine")
    with pytest.raises(Conflict, match="exists, with the model emoji-clip"):
        collections.create(tenant, "cats", "other")
    with pytest.raises(NotFound):
        collections.get(tenant + "x", "cats")
    assert [found.name for found in collections.all(tenant)] == ["cats"]
    assert collections.all(tenant + "x") == []


def test_the_first_rows_settle_model_width_and_types(collections: CollectionStore, tenant: str) -> None:
    made, _ = collections.create(tenant, "c", "m")
    bound = collections.bind(made, "f" * 64, 128, {"year": "number", "set": "string"})
    assert (bound.fingerprint, bound.width) == ("f" * 64, 128)
    again = collections.bind(bound, "f" * 64, 128, {"flat": "boolean", "year": "number"})
    assert again.columns == {"year": Column("number", 0), "set": Column("string", 0), "flat": Column("boolean", 1)}
    with pytest.raises(Conflict, match="other weights"):
        collections.bind(made, "e" * 64, 128, {})
    with pytest.raises(InvalidInput, match="year holds a number") as refused:
        collections.bind(made, "f" * 64, 128, {"year": "string"})
    assert refused.value.field == "metadata.year"
    with pytest.raises(InvalidInput, match="no room"):
        collections.bind(made, "f" * 64, 128, {f"s{number}": "string" for number in range(16)})
    assert collections.get(tenant, "c").columns == again.columns  # nothing of the refused ones was kept


def test_notes_move_changes_always_and_sizes_only_forwards(collections: CollectionStore, tenant: str) -> None:
    made, _ = collections.create(tenant, "c", "m")
    collections.note(made, version=5, rows=50, bytes_=500)
    collections.note(made, version=4, rows=40, bytes_=400)
    noted = collections.get(tenant, "c")
    assert (noted.rows, noted.bytes, noted.changes) == (50, 500, 2)


def test_a_switch_waits_for_every_change_and_gives_the_old_table_up(collections: CollectionStore, tenant: str) -> None:
    made, _ = collections.create(tenant, "c", "m")
    sizes = {"model": "n", "fingerprint": "e" * 64, "width": 64, "version": 1, "rows": 7, "bytes_": 70}
    collections.prepare(made, "next")
    seen = collections.get(tenant, "c")
    collections.note(seen, version=1, rows=8, bytes_=80)
    assert not collections.switch(seen, "next", **sizes)
    assert collections.switch(collections.get(tenant, "c"), "next", **sizes)
    switched = collections.get(tenant, "c")
    assert (switched.table, switched.model, switched.rows, switched.next_table) == ("next", "n", 7, "")
    assert collections.switch(switched, "next", **sizes)  # told again: its answer was lost
    assert made.table in collections.dropped(-1)
    collections.forget(made.table)
    assert made.table not in collections.dropped(-1)
    with pytest.raises(CollectionMoved, match="re-embedded meanwhile") as moved:
        collections.note(made, version=2, rows=9, bytes_=90)
    assert (moved.value.code, moved.value.retryable) == ("conflict", True)  # the next attempt writes to the new table


def test_another_reembedding_takes_over(collections: CollectionStore, tenant: str) -> None:
    made, _ = collections.create(tenant, "c", "m")
    collections.prepare(made, "first")
    collections.prepare(made, "second")
    assert "first" in collections.dropped(-1)
    with pytest.raises(Conflict, match="took over"):  # it may be deleted at any moment
        collections.prepare(made, "first")
    collections.abandon(made, "first")
    assert collections.get(tenant, "c").next_table == "second"
    collections.abandon(made, "second")
    assert collections.get(tenant, "c").next_table == ""
    assert "second" in collections.dropped(-1)
    collections.prepare(made, "third")
    with pytest.raises(NotFound, match="another job"):
        collections.switch(
            collections.get(tenant, "c"), "first", model="n", fingerprint="", width=1, version=1, rows=1, bytes_=1
        )


def test_a_deleted_collection_is_gone_for_its_writers_too(collections: CollectionStore, tenant: str) -> None:
    made, _ = collections.create(tenant, "c", "m")
    collections.prepare(made, "half-done")
    collections.delete(tenant, "c")
    assert {made.table, "half-done"} <= set(collections.dropped(-1))
    assert made.table not in collections.dropped(3600)
    with pytest.raises(NotFound):
        collections.delete(tenant, "c")
    again, is_new = collections.create(tenant, "c", "m")
    assert is_new
    assert again.table != made.table
    for late in (
        lambda: collections.bind(made, "f", 1, {}),
        lambda: collections.prepare(made, "t"),
    ):
        with pytest.raises(NotFound):
            late()
    with pytest.raises(Conflict):
        collections.note(made, version=1, rows=1, bytes_=1)


def test_a_tenant_has_a_limit(collections: CollectionStore, tenant: str, store: JobStore) -> None:
    store.redis.zadd(f"dq:collections:{tenant}", {f"x{number}": number for number in range(MAX_COLLECTIONS)})
    with pytest.raises(InvalidInput, match="too many"):
        collections.create(tenant, "one-more", "m")


def test_a_collection_to_compact_is_given_to_one(collections: CollectionStore, tenant: str) -> None:
    made, _ = collections.create(tenant, "c", "m")
    gone, _ = collections.create(tenant, "gone", "m")
    for written in (made, gone):
        collections.note(written, version=1, rows=1, bytes_=1)
    collections.delete(tenant, "gone")
    taken = list(iter(lambda: collections.take_due(-1), None))
    assert [found.name for found in taken if found.tenant == tenant] == ["c"]
    (record,) = [found for found in taken if found.tenant == tenant]
    assert collections.take_due(-1) is None  # it is in that one's hands
    assert collections.take_due(-601) is not None  # which took too long
    collections.note(record, version=2, rows=2, bytes_=2)
    collections.compacted(record, 3_600)
    assert collections.take_due(-1) is not None  # it was written to meanwhile
    collections.compacted(collections.get(tenant, "c"), 3_600)
    assert collections.take_due(-1) is None
    collections.compacted(collections.get(tenant, "c"), -1)
    assert not [found for found in iter(lambda: collections.take_due(-7_300), None) if found.tenant == tenant]
