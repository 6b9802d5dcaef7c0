"""Hits, pages, near-duplicates, diversity: on snapshots against plain Python, and from a table against a snapshot."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import InvalidInput
from shared.specs.filters import Condition
from tests.support.vectors import COLUMNS, row_id, some_rows, unit
from worker.vectors.index import Row, Vectors
from worker.vectors.memory import choosing
from worker.vectors.memory.products import cosines_with, log_mean_exp
from worker.vectors.memory.question import Hit, Question
from worker.vectors.memory.ranking import rank_snapshot, rank_table
from worker.vectors.memory.snapshot import Snapshot
from worker.vectors.stores.lance import LanceDatabase

WIDTH = 8


def _snapshot(rows: list[Row]) -> Snapshot:
    return Snapshot.empty(WIDTH, COLUMNS).changed(None, rows)


def _query(seed: int = 5) -> Vectors:
    return unit(np.random.default_rng(seed).normal(size=WIDTH))


def _pages(snapshot: Snapshot, question: Question) -> list[list[Hit]]:
    pages = []
    while True:
        page = rank_snapshot(snapshot, COLUMNS, question)
        pages.append(page.hits)
        if page.next_cursor is None:
            return pages
        question = replace(question, cursor=page.next_cursor)


def test_hits_are_the_nearest_with_all_that_is_known_of_them() -> None:
    rows = some_rows(40, metadata=[{"color": "red", "size": 2, "is_open": False}])
    page = rank_snapshot(_snapshot(rows), COLUMNS, Question(rows[0].vector, 3))
    assert page.hits[0] == Hit(rows[0].id, pytest.approx(1.0, abs=1e-6), rows[0].metadata, rows[0].added_at_ms)
    cosines = sorted((float(row.vector @ rows[0].vector) for row in rows), reverse=True)
    assert [hit.cosine for hit in page.hits] == pytest.approx(cosines[:3], abs=1e-6)
    assert (page.matching, page.rows) == (40, 40)
    assert page.background is None


def test_equal_cosines_are_ordered_by_id() -> None:
    vector = _query()
    rows = [Row(row_id(at), vector) for at in range(20)]
    hits = [hit.id for page in _pages(_snapshot(rows), Question(vector, 3)) for hit in page]
    assert hits == sorted(row.id for row in rows)


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(0, 60),
    limit=st.integers(1, 25),
    seed=st.integers(0, 50),
    copies=st.integers(0, 20),
    least=st.none() | st.floats(-1, 1),
    dedup=st.sampled_from([None, 0.5, 0.7, 0.9, 1.0]),
)
def test_pages_are_one_list_cut(
    count: int, limit: int, seed: int, copies: int, least: float | None, dedup: float | None
) -> None:
    rows = some_rows(count, WIDTH, seed=seed)
    rows += [Row(row_id(("copy", at)), row.vector) for at, row in enumerate(rows[:copies])]
    snapshot = _snapshot(rows)
    question = Question(_query(seed), limit, min_cosine=least, dedup=dedup)
    cosines = dict(zip(snapshot.ids, cosines_with(snapshot.vectors, question.query).tolist(), strict=True))
    wanted: list[str] = []
    for id_ in sorted(cosines, key=lambda id_: (-cosines[id_], id_)):
        vector = snapshot.row(snapshot.position(id_) or 0).vector
        near = [taken for taken in wanted if dedup is not None and _product(snapshot, taken, vector) >= dedup]
        if (least is None or cosines[id_] >= least) and not near:
            wanted.append(id_)
    pages = _pages(snapshot, question)
    assert [hit.id for page in pages for hit in page] == wanted
    assert all(len(page) == limit for page in pages[:-1])


def _product(snapshot: Snapshot, id_: str, vector: Vectors) -> float:
    at = snapshot.position(id_)
    assert at is not None
    return float(snapshot.vectors[at] @ vector) + 1e-6


def test_a_page_goes_on_where_it_ended_though_rows_came_and_went() -> None:
    rows = some_rows(50)
    question = Question(_query(), 10)
    first = rank_snapshot(_snapshot(rows), COLUMNS, question)
    seen = [hit.id for hit in first.hits]
    changed = [row for row in rows if row.id != seen[-1]] + some_rows(50, seed=1)  # the last one seen is gone
    second = rank_snapshot(_snapshot(changed), COLUMNS, replace(question, cursor=first.next_cursor))
    assert not set(seen) & {hit.id for hit in second.hits}
    assert max(hit.cosine for hit in second.hits) <= first.hits[-1].cosine
    behind = sorted((float(row.vector @ question.query) for row in changed), reverse=True)
    expected = [cosine for cosine in behind if cosine < first.hits[-1].cosine - 1e-6][:10]
    assert [hit.cosine for hit in second.hits] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "changed",
    [
        {"asked": "other words"},
        {"filter_": Condition(field="size", gt=3)},
        {"min_cosine": 0.5},
        {"dedup": 0.9},
        {"cursor": "AAAA"},
        {"cursor": "A"},
        {"cursor": "_" * 512},
    ],
)
def test_a_cursor_is_good_for_its_own_question_only(changed: dict[str, object]) -> None:
    snapshot = _snapshot(some_rows(30))
    question = Question(_query(), 5)
    page = rank_snapshot(snapshot, COLUMNS, question)
    assert page.next_cursor is not None
    assert len(page.next_cursor) <= 512
    again = replace(question, **{"cursor": page.next_cursor, "limit": 7} | changed)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput) as caught:
        rank_snapshot(snapshot, COLUMNS, again)
    assert caught.value.field == "cursor"


@pytest.mark.parametrize("dedup", [None, 0.99])
def test_a_query_that_moved_by_a_last_bit_shows_no_hit_twice(dedup: float | None) -> None:
    """The same words, embedded in another batch: a cursor is still good for them."""
    snapshot = _snapshot(some_rows(60))
    question = Question(_query(), 7, asked="the same words", dedup=dedup)
    first = rank_snapshot(snapshot, COLUMNS, question)
    for way in (-1, 1):
        moved = np.nextafter(question.query, np.float32(way), dtype=np.float32)
        second = rank_snapshot(snapshot, COLUMNS, replace(question, query=moved, cursor=first.next_cursor))
        assert not {hit.id for hit in first.hits} & {hit.id for hit in second.hits}
        both = rank_snapshot(snapshot, COLUMNS, replace(question, limit=14))
        assert [hit.id for hit in both.hits] == [hit.id for hit in [*first.hits, *second.hits]]


@pytest.mark.parametrize("share", [0.02, 0.5])  # rows are gathered, or all products masked
def test_a_filter_comes_before_the_ranking(share: float) -> None:
    count = 400
    some = int(count * share)
    rows = some_rows(count, metadata=[{"color": "red"}] * some)
    wanted = Condition(field="color", eq="red")
    with_scale = rank_snapshot(_snapshot(rows), COLUMNS, Question(_query(), 5, wanted, scale=10.0))
    without = rank_snapshot(_snapshot(rows), COLUMNS, Question(_query(), 5, wanted))
    assert with_scale.hits == without.hits  # to the last bit, whichever way the products were made
    cosines = sorted(((float(row.vector @ _query()), row.id) for row in rows[:some]), reverse=True)
    assert [hit.id for hit in without.hits] == [id_ for _, id_ in cosines[:5]]
    assert (without.matching, without.rows) == (some, count)
    none = rank_snapshot(_snapshot(rows), COLUMNS, Question(_query(), 5, Condition(field="color", eq="mauve")))
    assert (none.hits, none.matching, none.next_cursor) == ([], 0, None)


def test_near_duplicates_end_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "MAX_DEDUP_HITS", 12)
    snapshot = _snapshot(some_rows(40))
    with pytest.raises(InvalidInput, match="end here"):
        _pages(snapshot, Question(_query(), 5, dedup=1.0))


def test_diversity_moves_away_from_what_was_shown() -> None:
    rng = np.random.default_rng(3)
    base = unit(rng.normal(size=(6, WIDTH)))
    rows = [
        Row(row_id((group, at)), unit(base[group] + 0.02 * rng.normal(size=WIDTH)))
        for group in range(6)
        for at in range(9)
    ]
    snapshot = _snapshot(rows)
    query = unit(base.sum(axis=0))

    def likeness(diversity: float) -> float:
        hits = rank_snapshot(snapshot, COLUMNS, Question(query, 6, diversity=diversity)).hits
        assert len({hit.id for hit in hits}) == 6
        vectors = np.stack([snapshot.vectors[snapshot.position(hit.id) or 0] for hit in hits])
        return float((vectors @ vectors.T).sum() - 6)

    by_score = rank_snapshot(snapshot, COLUMNS, Question(query, 6)).hits
    assert rank_snapshot(snapshot, COLUMNS, Question(query, 6, diversity=1e-9)).hits == by_score
    assert likeness(1.0) <= likeness(0.5) < likeness(1e-9)
    assert rank_snapshot(snapshot, COLUMNS, Question(query, 6, diversity=0.5)).next_cursor is None
    everything = rank_snapshot(snapshot, COLUMNS, Question(query, 1_000, diversity=0.7, dedup=0.9)).hits
    kept = np.stack([snapshot.vectors[snapshot.position(hit.id) or 0] for hit in everything])
    assert (kept @ kept.T - np.eye(len(kept))).max() < 0.9


def test_the_background_is_the_mean_of_all() -> None:
    rows = some_rows(30, metadata=[{"color": "red"}] * 3)
    question = Question(_query(), 2, Condition(field="color", eq="red"), scale=20.0)
    cosines = [float(row.vector @ question.query) for row in rows]  # of all, whatever the filter
    wanted = math.log(sum(math.exp(20.0 * cosine) for cosine in cosines) / 30)
    assert rank_snapshot(_snapshot(rows), COLUMNS, question).background == pytest.approx(wanted, abs=1e-4)
    assert log_mean_exp(np.full(1000, 1.0, np.float32), 1_000.0) == pytest.approx(1_000.0)
    assert rank_snapshot(_snapshot([]), COLUMNS, question).background == 0.0


def test_products_do_not_depend_on_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages fit together only if a row's cosine is the same at any place and on any number of threads."""
    monkeypatch.setattr("worker.vectors.memory.products.LANE_ROWS", 64)
    vectors = unit(np.random.default_rng(0).normal(size=(999, 77)))
    query = unit(np.random.default_rng(1).normal(size=77))
    alone = np.array([cosines_with(vectors[at : at + 1], query)[0] for at in range(len(vectors))])
    assert (cosines_with(vectors, query) == alone).all()
    np.testing.assert_allclose(alone, vectors @ query, atol=1e-6)


def test_a_table_ranks_as_its_snapshot_does(tmp_path: Path) -> None:
    """Without an approximate index its answers are exact, so all must agree."""
    rows = some_rows(300, metadata=[{"color": "red", "size": at} for at in range(120)])
    rows += [Row(row_id(("copy", at)), row.vector, {"color": "red"}) for at, row in enumerate(rows[:40])]
    table = LanceDatabase(str(tmp_path)).open("ranked", WIDTH)
    table.put(rows, COLUMNS)
    snapshot = _snapshot(list({row.id: row for batch in table.scan(COLUMNS) for row in batch}.values()))
    sample = snapshot.vectors[::3]
    red = Condition(field="color", eq="red")
    for question in (
        Question(_query(), 7),
        Question(_query(), 7, red, scale=5.0),
        Question(_query(), 7, min_cosine=0.3),
        Question(_query(), 7, red, dedup=0.95),
        Question(_query(), 7, red, diversity=0.4),
        Question(_query(), 400),
    ):
        for _ in range(60):
            exact, found = rank_snapshot(snapshot, COLUMNS, question), rank_table(table, COLUMNS, question, sample)
            assert found.hits == exact.hits
            assert (found.matching, found.rows, found.next_cursor) == (exact.matching, exact.rows, exact.next_cursor)
            if question.scale is not None:
                assert found.background == pytest.approx(exact.background, abs=0.3)  # guessed from a third of the rows
            if exact.next_cursor is None:
                break
            question = replace(question, cursor=exact.next_cursor)
        else:
            raise AssertionError("pages without end")
