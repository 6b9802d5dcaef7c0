"""Every vector index keeps the same promises: LanceDB in a folder, and Qdrant by its client's in-memory stand-in."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from qdrant_client import QdrantClient

from shared.errors import Conflict, InvalidInput, NonFinite
from shared.specs.filters import AnyFilter, Condition, Filter, Not
from tests.support.vectors import COLUMNS, is_match, row_id, some_rows, unit
from worker.vectors.index import Metadata, Row, VectorDatabase, VectorTable
from worker.vectors.memory.cache import Caches
from worker.vectors.memory.snapshot import Snapshot
from worker.vectors.stores.lance import LanceDatabase
from worker.vectors.stores.qdrant import QdrantDatabase

WIDTH = 8


def _lance(folder: Path) -> VectorDatabase:
    return LanceDatabase(str(folder))


def _qdrant(folder: Path) -> VectorDatabase:
    return QdrantDatabase(QdrantClient(":memory:"), is_server=False)


@pytest.fixture(params=[_lance, _qdrant], ids=["lance", "qdrant"], scope="module")
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VectorDatabase:
    """One of each kind."""
    make: Callable[[Path], VectorDatabase] = request.param
    return make(tmp_path_factory.mktemp("vectors"))


@pytest.fixture
def name() -> str:
    """Of a table nobody else uses."""
    return f"c{uuid.uuid4().hex}"


@pytest.fixture
def table(database: VectorDatabase, name: str) -> Iterator[VectorTable]:
    """An empty one."""
    yield database.open(name, WIDTH)
    database.drop(name)


def _all(table: VectorTable) -> dict[str, Row]:
    rows = [row for batch in table.scan(COLUMNS, batch=7) for row in batch]
    assert len({row.id for row in rows}) == len(rows) == table.count()
    return {row.id: row for row in rows}


def test_what_is_put_comes_back(table: VectorTable) -> None:
    told: list[Metadata] = [
        {"color": "red", "size": 3, "is_open": True},
        {"color": "o'clock \\ \" %_ ünï 🦊 \n", "is_open": False},
        {"name": "", "size": -0.5},
    ]
    rows = some_rows(20, metadata=told)
    table.put(rows, COLUMNS)
    found = table.get([row.id for row in rows] + [row_id("nobody")], COLUMNS)
    assert set(found) == {row.id for row in rows}
    for row in rows:
        assert found[row.id].metadata == row.metadata
        assert found[row.id].added_at_ms == row.added_at_ms
        np.testing.assert_allclose(found[row.id].vector, row.vector, atol=1e-6)
        assert found[row.id].vector.dtype == np.float32
    back = found[rows[0].id].metadata
    assert isinstance(back["size"], float)
    assert back["is_open"] is True
    assert found[rows[1].id].metadata["is_open"] is False


def test_a_known_id_is_replaced(table: VectorTable) -> None:
    rows = some_rows(10, metadata=[{"color": "red", "size": 1}])
    table.put(rows, COLUMNS)
    before = {row.id: row.revision for row in _all(table).values()}
    again = Row(rows[0].id, rows[5].vector, {"size": 2}, 5)
    table.put([again, *some_rows(3, seed=1)], COLUMNS)
    found = _all(table)
    assert len(found) == 13
    assert found[again.id].metadata == {"size": 2}  # nothing of the old row is left
    assert found[again.id].added_at_ms == 5
    assert found[again.id].revision > max(before.values())
    assert {id_: row.revision for id_, row in found.items() if id_ in before and id_ != again.id} == {
        id_: revision for id_, revision in before.items() if id_ != again.id
    }


def test_of_two_rows_with_one_id_the_last_counts(table: VectorTable) -> None:
    first, second = some_rows(2)
    table.put([first, Row(first.id, second.vector, {"color": "blue"})], COLUMNS)
    assert table.count() == 1
    assert table.get([first.id], COLUMNS)[first.id].metadata == {"color": "blue"}


def test_rows_go(table: VectorTable) -> None:
    rows = some_rows(12, metadata=[{"color": "red"}] * 4 + [{"color": "blue"}] * 3)
    table.put(rows, COLUMNS)
    ids = [row.id for row in rows]
    assert table.known([*ids[:3], row_id("nobody")]) == set(ids[:3])
    assert table.delete([ids[0], ids[1], row_id("nobody")]) == 2
    assert table.delete([ids[0]]) == 0
    assert table.delete([]) == 0
    assert table.known(ids[:3]) == {ids[2]}
    assert table.delete_where(Condition(field="color", eq="red"), COLUMNS) == 2
    assert table.delete_where(Condition(field="nothing", eq="red"), COLUMNS) == 0
    assert set(_all(table)) == set(ids[4:])
    assert table.get(ids[:4], COLUMNS) == {}


def test_counts_sizes_and_versions_follow(table: VectorTable) -> None:
    assert (table.count(), list(table.scan(COLUMNS)), table.revisions().tolist()) == (0, [], [])
    versions = [table.version()]
    rows = some_rows(30, metadata=[{"size": 1}] * 4)
    table.put(rows, COLUMNS)
    versions.append(table.version())
    table.delete([rows[-1].id])
    versions.append(table.version())
    assert versions == sorted(versions)
    if table.is_local:  # a cache asks whether it is another one
        assert len(set(versions)) == 3
    assert table.count() == 29
    assert table.count(Condition(field="size", gte=0), COLUMNS) == 4
    assert table.bytes() >= 29 * WIDTH * 4


def test_a_scan_reads_what_a_cache_asks_for(table: VectorTable) -> None:
    table.put(some_rows(10), COLUMNS)
    old = table.revisions()
    table.put(some_rows(10)[:3] + some_rows(4, seed=1), COLUMNS)
    new = np.setdiff1d(table.revisions(), old)
    assert len(new) == 7
    gone = old[:1] if old[0] not in table.revisions() else np.setdiff1d(old, table.revisions())[:1]
    read = [row for batch in table.scan(COLUMNS, revisions=np.append(new[1:], gone)) for row in batch]
    assert sorted(row.revision for row in read) == sorted(new[1:].tolist())
    assert list(table.scan(COLUMNS, revisions=new[:0])) == []


def test_the_nearest_come_first(table: VectorTable) -> None:
    rows = some_rows(50, metadata=[{"color": "red", "size": at} for at in range(25)])
    table.put(rows, COLUMNS)
    query = unit(np.random.default_rng(9).normal(size=WIDTH))
    cosines = {row.id: float(row.vector @ query) for row in rows}
    best = sorted(cosines, key=lambda id_: -cosines[id_])
    found = table.search(query, 10, COLUMNS)
    assert [one.row.id for one in found] == best[:10]
    np.testing.assert_allclose([one.cosine for one in found], [cosines[id_] for id_ in best[:10]], atol=1e-5)
    assert found[0].row.metadata == next(row.metadata for row in rows if row.id == best[0])
    wanted = Condition(field="size", lt=8)  # before the ranking: there are as many hits as match
    few = {row.id for row in rows[:8]}
    assert [one.row.id for one in table.search(query, 8, COLUMNS, wanted)] == [id_ for id_ in best if id_ in few]
    assert table.search(query, 8, COLUMNS, Condition(field="nothing", exists=True)) == []


def test_tidying_changes_no_row(table: VectorTable) -> None:
    for seed in range(5):
        table.put(some_rows(20, seed=seed, metadata=[{"color": "red"}]), COLUMNS)
    table.delete([row.id for row in some_rows(5, seed=2)])
    before = {id_: (row.metadata, row.revision) for id_, row in _all(table).items()}
    table.optimize(is_large=False)
    assert {id_: (row.metadata, row.revision) for id_, row in _all(table).items()} == before


def test_a_large_table_keeps_its_promises(database: VectorDatabase, table: VectorTable) -> None:
    """Behind an approximate index: what a filter leaves is exact where it is little, new rows are found at once, and
    deleted or replaced ones are not. How much it misses otherwise only real vectors can tell: see the benchmark."""
    rows = some_rows(4_000, metadata=[{"color": "red", "size": at} for at in range(1_500)])
    table.put(rows, COLUMNS)
    table.optimize(is_large=True)
    red = Condition(field="color", eq="red")
    query = unit(np.random.default_rng(3).normal(size=WIDTH))
    best = sorted(rows[:1_500], key=lambda row: -float(row.vector @ query))
    assert [one.row.id for one in table.search(query, 20, COLUMNS, red)] == [row.id for row in best[:20]]
    new = Row(row_id("new"), query, {"color": "blue"})
    table.put([new], COLUMNS)
    assert table.search(query, 1, COLUMNS)[0].row.id == new.id
    table.put([Row(new.id, -query)], COLUMNS)
    table.delete([best[0].id])
    found = [one.row.id for one in table.search(query, 50, COLUMNS)]
    assert len(found) == 50
    assert not {new.id, best[0].id} & set(found)
    table.optimize(is_large=True)
    assert table.count() == 4_000
    assert [one.row.id for one in table.search(query, 5, COLUMNS, red)] == [row.id for row in best[1:6]]


def test_a_table_is_one_for_all_who_open_it(database: VectorDatabase, table: VectorTable, name: str) -> None:
    other = database.open(name, WIDTH)
    table.put(some_rows(5), COLUMNS)
    assert other.count() == 5
    other.delete([some_rows(1)[0].id])
    assert table.count() == 4
    assert name in database.tables()


def test_a_dropped_table_is_gone(database: VectorDatabase, name: str) -> None:
    database.open(name, WIDTH).put(some_rows(5), COLUMNS)
    database.drop(name)
    database.drop(name)
    assert name not in database.tables()
    assert database.open(name, WIDTH).count() == 0
    database.drop(name)


def test_many_tables_are_all_listed(database: VectorDatabase) -> None:
    names = {f"many{uuid.uuid4().hex}" for _ in range(15)}
    for one in names:
        database.open(one, 2)
    assert names <= set(database.tables())
    for one in names:
        database.drop(one)


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (Row("img_1", np.ones(WIDTH + 1, np.float32)), InvalidInput),
        (Row("img_1", np.full(WIDTH, np.nan, np.float32)), NonFinite),
        (Row("img_1", np.ones(WIDTH, np.float32), {"unbound": 1}), InvalidInput),
    ],
)
def test_what_no_table_takes_is_refused_whole(table: VectorTable, row: Row, error: type[Exception]) -> None:
    with pytest.raises(error):
        table.put([*some_rows(3), row], COLUMNS)
    assert table.count() == 0


def test_vectors_of_another_width_need_another_table(database: VectorDatabase, table: VectorTable, name: str) -> None:
    with pytest.raises(Conflict):
        database.open(name, WIDTH * 2)


def test_threads_may_share_a_table(database: VectorDatabase, table: VectorTable) -> None:
    if isinstance(database, QdrantDatabase):
        pytest.skip("the in-memory stand-in of Qdrant is for one thread; a server is not")
    failures: list[BaseException] = []

    def write(seed: int) -> None:
        try:
            for at in range(5):
                table.put(some_rows(10, seed=seed * 100 + at), COLUMNS)
                table.put(some_rows(10, seed=7), COLUMNS)  # the same rows, by all at once
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(_all(table)) == 3 * 5 * 10 + 10


# Filters: random ones over random rows, each implementation against plain Python. Rows and filters take their values
# from the same small set, so that most filters match some rows and not all.
WORDS = st.sampled_from(["red", "blue", "", "o'clock", "a\\", '"', "%", "ü🦊", "true", "1", "NULL", "x') OR ('1'='1"])
NUMBERS = st.sampled_from([0.0, -0.0, 1.0, -3.0, 2.5, 1e-7, 2.0**53, -(2.0**53), 7]) | st.integers(-5, 5).map(float)
VALUES = WORDS | NUMBERS | st.booleans()
METADATA = st.fixed_dictionaries(
    {}, optional={"color": WORDS, "name": WORDS, "size": NUMBERS, "is_open": st.booleans()}
)
FIELDS = st.sampled_from([*COLUMNS, "unbound"])


@st.composite
def _conditions(draw: st.DrawFn) -> dict[str, object]:
    kinds = draw(
        st.sets(st.sampled_from(["eq", "ne", "in", "gt", "gte", "lt", "lte", "exists"]), min_size=1, max_size=3)
    )
    said: dict[str, object] = {"field": draw(FIELDS)}
    for kind in sorted(kinds):
        strategy: st.SearchStrategy[object] = NUMBERS
        if kind in {"eq", "ne"}:
            strategy = VALUES
        elif kind == "in":
            strategy = st.lists(VALUES, min_size=1, max_size=4)
        elif kind == "exists":
            strategy = st.booleans()
        said[kind] = draw(strategy)
    return said


FILTERS = st.recursive(
    _conditions(),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"and": parts})
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"or": parts})
        | inner.map(lambda part: {"not": part})
    ),
    max_leaves=6,
)
READ: TypeAdapter[AnyFilter] = TypeAdapter(Filter)


def test_it_can_be_read_whole_for_once(table: VectorTable) -> None:
    """What grouping and classifying a collection need, also where searches are the server's."""
    rows = some_rows(50, WIDTH, seed=3)
    table.put(rows, COLUMNS)
    caches = Caches(10**9, 100)
    whole = caches.copy(table, COLUMNS)
    assert whole is not None
    assert {str(id_) for id_ in whole.ids} == {row.id for row in rows}
    at = whole.position(rows[7].id)
    assert at is not None
    assert whole.vectors[at] == pytest.approx(rows[7].vector, abs=1e-6)
    assert not caches.cached()
    assert Caches(10**9, 49).copy(table, COLUMNS) is None


@pytest.fixture(scope="module")
def filtered(database: VectorDatabase) -> Iterator[tuple[VectorTable, list[Row], Snapshot]]:
    """A table with all kinds of metadata, its rows, and the same in memory."""
    strategy_rows: list[Metadata] = [
        {},
        *({"color": word, "name": word} for word in ("red", "blue", "", "o'clock", "a\\", '"', "%", "ü🦊")),
        *({"color": word, "is_open": True} for word in ("true", "1", "NULL", "x') OR ('1'='1")),
        *({"size": number, "is_open": False} for number in (0.0, -0.0, 1.0, -3.0, 2.5, 1e-7, 2.0**53, -(2.0**53), 7.0)),
        *({"size": float(at), "color": "red"} for at in range(-5, 6)),
    ]
    rows = some_rows(len(strategy_rows), metadata=strategy_rows)
    name = f"filtered{uuid.uuid4().hex}"
    table = database.open(name, WIDTH)
    table.put(rows, COLUMNS)
    yield table, rows, Snapshot.empty(WIDTH, COLUMNS).changed(None, rows)
    database.drop(name)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=FILTERS)
def test_every_implementation_reads_a_filter_alike(
    filtered: tuple[VectorTable, list[Row], Snapshot], said: dict[str, object]
) -> None:
    table, rows, snapshot = filtered
    filter_ = READ.validate_python(said)
    wanted = {row.id for row in rows if is_match(filter_, row.metadata)}
    mask = snapshot.mask(filter_, COLUMNS)
    assert mask is not None
    assert set(snapshot.ids[mask]) == wanted
    found = table.search(rows[0].vector, len(rows), COLUMNS, filter_)
    assert {one.row.id for one in found} == wanted
    assert table.count(filter_, COLUMNS) == len(wanted)


@settings(deadline=None, max_examples=100)
@given(said=FILTERS, told=st.lists(METADATA, max_size=12))
def test_a_mask_is_what_python_says(said: dict[str, object], told: list[Metadata]) -> None:
    filter_ = READ.validate_python(said)
    rows = some_rows(len(told), metadata=told)
    snapshot = Snapshot.empty(WIDTH, COLUMNS).changed(None, rows)
    mask = snapshot.mask(filter_, COLUMNS)
    assert mask is not None
    assert mask.tolist() == [is_match(filter_, row.metadata) for row in rows]
    opposite = snapshot.mask(Not.model_validate({"not": filter_}), COLUMNS)
    assert opposite is not None
    assert (opposite != mask).all()
