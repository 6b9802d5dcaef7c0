"""The copy in memory: exact after every change, bounded, and never changed under a reader."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import VectorsUnavailable
from shared.specs.filters import Column
from tests.support.vectors import COLUMNS, row_id, some_rows
from worker.vectors.index import Row, VectorTable
from worker.vectors.memory.cache import MAX_AGE_S, Caches
from worker.vectors.memory.snapshot import Snapshot
from worker.vectors.stores.lance import LanceDatabase
from worker.vectors.stores.revisions import Revisions

WIDTH = 8
PLENTY = 10**9


class Counting:
    """A real table that counts what it is asked, and fails when told to."""

    def __init__(self, table: VectorTable) -> None:
        self.real = table
        self.asked: list[str] = []
        self.is_down = False

    def __getattr__(self, name: str) -> Any:
        if name in {"is_local", "width"}:
            return getattr(self.real, name)
        if self.is_down:
            raise VectorsUnavailable("down")
        self.asked.append(name)
        return getattr(self.real, name)


@pytest.fixture
def table(tmp_path: Path) -> Counting:
    """An empty one."""
    return Counting(LanceDatabase(str(tmp_path)).open("cached", WIDTH))


class Clock:
    """Time that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def _agree(snapshot: Snapshot | None, table: Counting) -> None:
    assert snapshot is not None
    rows = {row.id: row for batch in table.real.scan(COLUMNS) for row in batch}
    assert snapshot.rows == len(rows)
    assert sorted(snapshot.ids) == sorted(rows)
    for at in range(snapshot.rows):
        row, wanted = snapshot.row(at), rows[snapshot.ids[at]]
        assert (row.metadata, row.revision, row.added_at_ms) == (wanted.metadata, wanted.revision, wanted.added_at_ms)
        assert (row.vector == wanted.vector).all()
        assert snapshot.position(row.id) == at


def test_after_every_change_it_is_the_table(table: Counting) -> None:
    rng = random.Random(7)
    caches = Caches(PLENTY, PLENTY)
    _agree(caches.of("t", table, COLUMNS, 0), table)
    known: list[str] = []
    for changes in range(1, 25):
        fresh = some_rows(rng.randint(0, 30), WIDTH, seed=changes)
        again = [replace(row, id=rng.choice(known)) for row in some_rows(3, WIDTH, seed=-changes % 1000) if known]
        told = [{"color": rng.choice("abc"), "size": rng.random(), "is_open": rng.random() < 0.5} for _ in fresh]
        rows = [replace(row, metadata=one) for row, one in zip(fresh, told, strict=True)]
        table.real.put([*rows, *again], COLUMNS)
        known += [row.id for row in rows]
        gone = rng.sample(known, min(len(known), rng.randint(0, 12)))
        table.real.delete(gone)
        if rng.random() < 0.3:
            table.real.optimize(is_large=False)
        _agree(caches.of("t", table, COLUMNS, changes), table)


def test_a_reader_keeps_what_it_has(table: Counting) -> None:
    caches = Caches(PLENTY, PLENTY)
    table.real.put(some_rows(50, metadata=[{"color": "red"}]), COLUMNS)
    first = caches.of("t", table, COLUMNS, 1)
    assert first is not None
    before = (first.ids.copy(), first.vectors.copy(), first.metadata(0))
    for changes in range(2, 8):
        table.real.put(some_rows(5, seed=changes, metadata=[{"color": f"{changes}"}]), COLUMNS)
        table.real.delete([some_rows(50)[changes].id])
        caches.of("t", table, COLUMNS, changes)
    assert (first.ids == before[0]).all()
    assert (first.vectors == before[1]).all()
    assert first.metadata(0) == before[2]


def test_two_heirs_of_one_snapshot_do_not_write_over_each_other() -> None:
    parent = Snapshot.empty(WIDTH, {}).changed(None, some_rows(100)).changed(None, some_rows(1, seed=1))
    one, two = parent.changed(None, some_rows(1, seed=2)), parent.changed(None, some_rows(1, seed=3))
    assert (one.vectors[-1] == some_rows(1, seed=2)[0].vector).all()
    assert (two.vectors[-1] == some_rows(1, seed=3)[0].vector).all()
    assert np.shares_memory(parent.vectors, one.vectors)  # a few more rows need no copy of all


def test_the_table_is_asked_only_when_it_changed_or_time_passed(table: Counting) -> None:
    clock = Clock()
    caches = Caches(PLENTY, PLENTY, clock)
    table.real.put(some_rows(10), COLUMNS)
    first = caches.of("t", table, COLUMNS, 3)
    table.asked.clear()
    assert caches.of("t", table, COLUMNS, 3) is first
    assert caches.of("t", table, COLUMNS, 2) is first  # asked for by a record read earlier
    assert table.asked == []
    assert caches.of("t", table, COLUMNS, 4) is first  # a change that left no trace: only the version is read
    assert table.asked == ["version"]
    table.real.put(some_rows(10, seed=1), COLUMNS)
    assert caches.of("t", table, COLUMNS, 4) is first
    clock.now += MAX_AGE_S
    _agree(caches.of("t", table, COLUMNS, 4), table)  # nobody said so, yet it is seen
    assert [(cached.rows, cached.changes, cached.age_s) for cached in caches.cached()] == [(20, 4, 0.0)]


def test_only_new_rows_are_read(table: Counting) -> None:
    caches = Caches(PLENTY, PLENTY)
    table.real.put(some_rows(200), COLUMNS)
    caches.of("t", table, COLUMNS, 1)
    table.real.put(some_rows(3, seed=1), COLUMNS)
    read: list[Row] = []
    scan = table.real.scan

    def watched(*args: Any, **kwargs: Any) -> Iterator[list[Row]]:
        for batch in scan(*args, **kwargs):
            read.extend(batch)
            yield batch

    table.real.scan = watched  # type: ignore[method-assign]
    snapshot = caches.of("t", table, COLUMNS, 2)
    assert snapshot is not None
    assert snapshot.rows == 203
    assert sorted(row.id for row in read) == sorted(row.id for row in some_rows(3, seed=1))


def test_a_new_field_is_looked_for_in_rows_that_are_held(table: Counting) -> None:
    """A searcher whose record is old may have read rows without a field that was new to it."""
    caches = Caches(PLENTY, PLENTY)
    columns = COLUMNS | {"year": Column("number", 5)}
    table.real.put(some_rows(3, metadata=[{"year": 1999}]), columns)
    old = caches.of("t", table, COLUMNS, 1)
    assert old is not None
    assert old.metadata(old.position(row_id("0-0")) or 0) == {}
    new = caches.of("t", table, columns, 1)
    assert new is not None
    assert new.row(new.position(row_id("0-0")) or 0).metadata == {"year": 1999}
    assert caches.of("t", table, COLUMNS, 1) is new  # the older record's fields are all in it


def test_a_double_revision_is_read_anew(table: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = Caches(PLENTY, PLENTY)
    table.real.put(some_rows(5), COLUMNS)
    caches.of("t", table, COLUMNS, 1)
    monkeypatch.setattr(Revisions, "draw", lambda self, count: np.full(count, table.revisions()[0]))
    table.real.put(some_rows(2, seed=1), COLUMNS)
    _agree(caches.of("t", table, COLUMNS, 2), table)


def test_what_is_too_large_is_left_to_the_table(table: Counting) -> None:
    table.real.put(some_rows(20), COLUMNS)
    assert Caches(PLENTY, max_rows=19).of("t", table, COLUMNS, 1) is None
    assert Caches(limit_bytes=1_000, max_rows=PLENTY).of("t", table, COLUMNS, 1) is None
    caches = Caches(PLENTY, max_rows=25)
    assert caches.of("t", table, COLUMNS, 1) is not None
    table.real.put(some_rows(20, seed=1), COLUMNS)
    assert caches.of("t", table, COLUMNS, 2) is None
    assert caches.cached() == []
    table.real.delete([row.id for row in some_rows(20)])
    _agree(caches.of("t", table, COLUMNS, 3), table)


def test_the_longest_unused_one_goes(tmp_path: Path) -> None:
    database = LanceDatabase(str(tmp_path))
    tables = {name: database.open(name, WIDTH) for name in ("a", "b", "c")}
    for one in tables.values():
        one.put(some_rows(1_000), COLUMNS)
    size = Snapshot.empty(WIDTH, COLUMNS).changed(None, some_rows(1_000)).bytes
    caches = Caches(int(2.5 * size), PLENTY)
    for name in ("a", "b", "a", "c"):
        assert caches.of(name, tables[name], COLUMNS, 1) is not None
    assert [cached.table for cached in caches.cached()] == ["a", "c"]
    assert sum(cached.bytes for cached in caches.cached()) <= 2.5 * size
    caches.drop("a")
    assert [cached.table for cached in caches.cached()] == ["c"]


def test_when_the_index_is_down_what_is_new_enough_still_serves(table: Counting) -> None:
    clock = Clock()
    caches = Caches(PLENTY, PLENTY, clock)
    table.real.put(some_rows(5), COLUMNS)
    first = caches.of("t", table, COLUMNS, 1)
    table.is_down = True
    clock.now += MAX_AGE_S
    assert caches.of("t", table, COLUMNS, 1) is first
    with pytest.raises(VectorsUnavailable):
        caches.of("t", table, COLUMNS, 2)  # older than asked for
    with pytest.raises(VectorsUnavailable):
        caches.of("other", table, COLUMNS, 1)
    table.is_down = False
    table.real.put(some_rows(5, seed=1), COLUMNS)
    _agree(caches.of("t", table, COLUMNS, 2), table)


def test_many_searches_wait_for_one_refresh(table: Counting) -> None:
    caches = Caches(PLENTY, PLENTY)
    table.real.put(some_rows(500), COLUMNS)
    barrier = threading.Barrier(8)
    found: list[Snapshot | None] = []

    def search() -> None:
        barrier.wait()
        found.append(caches.of("t", table, COLUMNS, 1))

    threads = [threading.Thread(target=search) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(snapshot) for snapshot in found}) == 1
    assert table.asked.count("scan") == 1


def test_revisions_grow_though_the_clock_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    revisions = Revisions()
    drawn = [revisions.draw(1_000)]
    monkeypatch.setattr("time.time_ns", lambda: 0)
    drawn += [revisions.draw(1_000), revisions.draw(1)]
    all_ = np.concatenate(drawn)
    assert (np.diff(all_) > 0).all()
    assert all_.dtype == np.int64
    assert all_.min() > 0
