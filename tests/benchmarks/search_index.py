"""The vector index by itself, inside one process: exact search of 100,000 rows in memory, with and without a filter;
a million rows by the approximate index on disk, its recall against exact numpy; several processes at one table.

All vectors are real outputs of a CLIP (tests/benchmarks/real_vectors.py says how a million distinct rows are made of
1,652 pictures); queries are other views of the pictures, which no row has. Vectors are never random.

The million needs about 5 GB of disk under TMPDIR and about five minutes; SEARCH_ROWS=100000 takes fewer rows.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles

import numpy as np

from shared.specs.filters import Column, Condition
from tests.benchmarks.real_vectors import Floats, queries, rows
from tests.benchmarks.report import Report
from tests.support.vector_load import run_load
from tests.support.vectors import row_id
from worker.vectors.index import Row, VectorTable
from worker.vectors.memory.cache import Caches
from worker.vectors.memory.question import Question
from worker.vectors.memory.ranking import rank_snapshot, rank_table
from worker.vectors.memory.snapshot import Snapshot
from worker.vectors.stores.lance import LanceDatabase

HELD_ROWS = 100_000
QUERIES = 200
LOAD_S = 60.0
SCALE = 20.0  # of the logits: each page tells its background, as for a scored answer
COLUMNS = {"shelf": Column("number", 0), "color": Column("string", 0)}
ONE_IN_TEN = Condition(field="shelf", eq=3)  # rows are spread over ten shelves
WIDTH = 512


def run(report: Report) -> None:
    """The three parts, one after the other."""
    folder = Path(tempfile.mkdtemp(prefix="dq-search-"))
    try:
        asked = list(queries(QUERIES))
        database = LanceDatabase(str(folder))
        _in_memory(report, database.open("held", WIDTH), asked)
        database.drop("held")
        _on_disk(report, database.open("large", WIDTH), asked, int(os.environ.get("SEARCH_ROWS", "1000000")))
        database.drop("large")
        _together(report, folder / "load")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fill(table: VectorTable, count: int, asked: Floats) -> list[list[str]]:
    """Put so many rows; the ids of the ten nearest to each query, exactly."""
    best = np.zeros((len(asked), 0), np.float32)
    at = np.zeros((len(asked), 0), np.int64)
    done = 0
    for block in rows(count):
        table.put(
            [
                Row(row_id(done + n), vector, {"shelf": n % 10, "color": f"c{n % 50}"}, done + n)
                for n, vector in enumerate(block)
            ],
            COLUMNS,
        )
        cosines = asked @ block.T
        best = np.concatenate([best, cosines], axis=1)
        at = np.concatenate([at, np.broadcast_to(np.arange(done, done + len(block)), cosines.shape)], axis=1)
        keep = np.argpartition(-best, 10, axis=1)[:, :10]
        best, at = np.take_along_axis(best, keep, axis=1), np.take_along_axis(at, keep, axis=1)
        done += len(block)
    return [[row_id(number) for number in line] for line in at.tolist()]


def _in_memory(report: Report, table: VectorTable, asked: Sequence[Floats]) -> None:
    began = time.perf_counter()
    nearest = _fill(table, HELD_ROWS, np.stack(asked))
    report.add("search_put_100k_s", time.perf_counter() - began, "s")
    caches = Caches(2 * 2**30, 500_000)
    began = time.perf_counter()
    held = caches.of("held", table, COLUMNS, 1)
    assert held is not None
    snapshot: Snapshot = held
    report.add("search_load_100k_s", time.perf_counter() - began, "s")

    def exact(query: Floats) -> list[str]:
        return [hit.id for hit in rank_snapshot(snapshot, COLUMNS, Question(query, 10, scale=SCALE)).hits]

    def filtered(query: Floats) -> list[str]:
        question = Question(query, 10, ONE_IN_TEN, scale=SCALE)
        return [hit.id for hit in rank_snapshot(snapshot, COLUMNS, question).hits]

    def filtered_unscored(query: Floats) -> list[str]:
        return [hit.id for hit in rank_snapshot(snapshot, COLUMNS, Question(query, 10, ONE_IN_TEN)).hits]

    _, ms = _timed(asked, exact)
    report.add("search_exact_100k_p50_ms", median(ms), "ms", at_most=15, peer="numpy by BLAS, same rows: see next")
    report.add("search_exact_100k_p99_ms", quantiles(ms, n=100)[98], "ms")
    found = [exact(query) for query in asked]
    report.add("search_exact_100k_recall_at_10", _recall(found, nearest), "share", at_least=0.999)
    _, plain = _timed(asked, lambda query: _plain(snapshot, query))
    report.add("search_numpy_100k_p50_ms", median(plain), "ms", peer="vectors @ query and argpartition, one query")
    for name, act in (("filtered", filtered), ("filtered_unscored", filtered_unscored)):
        hits, ms = _timed(asked, act)
        assert all(len(one) == 10 for one in hits)
        report.add(
            f"search_{name}_100k_p50_ms", median(ms), "ms", at_most=15, peer="a filter that one row in ten passes"
        )
    refreshes = []
    for turn, block in enumerate(rows(1_000)):  # rows that are there already, each a little later
        for begin in range(0, 1_000, 100):
            some = [
                Row(row_id(("new", turn, begin + n)), vector) for n, vector in enumerate(block[begin : begin + 100])
            ]
            table.put(some, COLUMNS)
            began = time.perf_counter()
            caches.of("held", table, COLUMNS, 2 + begin)
            refreshes.append((time.perf_counter() - began) * 1e3)
    report.add("search_refresh_100k_p50_ms", median(refreshes), "ms", peer="100 new rows into the copy in memory")


def _plain(snapshot: Snapshot, query: Floats) -> list[str]:
    cosines = snapshot.vectors @ query
    best = np.argpartition(-cosines, 10)[:10]
    return list(snapshot.ids[best[np.argsort(-cosines[best])]])


def _on_disk(report: Report, table: VectorTable, asked: Sequence[Floats], count: int) -> None:
    began = time.perf_counter()
    nearest = _fill(table, count, np.stack(asked))
    report.add("search_put_1m_s", time.perf_counter() - began, "s")
    began = time.perf_counter()
    table.optimize(is_large=True)
    report.add("search_ann_1m_build_s", time.perf_counter() - began, "s")
    report.add("search_ann_1m_disk_gb", table.bytes() / 1e9, "GB")

    def ann(query: Floats) -> list[str]:
        return [found.row.id for found in table.search(query, 10, COLUMNS)]

    def filtered(query: Floats) -> list[str]:
        return [found.row.id for found in table.search(query, 10, COLUMNS, ONE_IN_TEN)]

    def page(query: Floats) -> list[str]:
        return [hit.id for hit in rank_table(table, COLUMNS, Question(query, 10)).hits]

    _timed(asked[:20], ann)  # its files into the page cache
    found, ms = _timed(asked, ann)
    report.add("search_ann_1m_p50_ms", median(ms), "ms", at_most=20)
    report.add("search_ann_1m_p99_ms", quantiles(ms, n=100)[98], "ms")
    report.add("search_ann_1m_recall_at_10", _recall(found, nearest), "share", at_least=0.97)
    hits, ms = _timed(asked, filtered)
    assert all(len(one) == 10 for one in hits)
    report.add("search_ann_1m_filtered_p50_ms", median(ms), "ms", peer="a filter that one row in ten passes")
    _, ms = _timed(asked, page)
    report.add("search_ann_1m_page_p50_ms", median(ms), "ms", peer="with the counts that a page tells")


def _recall(found: Sequence[Sequence[str]], nearest: Sequence[Sequence[str]]) -> float:
    return sum(len(set(one) & set(true)) / 10 for one, true in zip(found, nearest, strict=True)) / len(nearest)


def _timed(asked: Sequence[Floats], act: Callable[[Floats], list[str]]) -> tuple[list[list[str]], list[float]]:
    """Answers and milliseconds, one query after the other; the first one warms up."""
    act(asked[0])
    answers, ms = [], []
    for query in asked:
        began = time.perf_counter()
        answers.append(act(query))
        ms.append((time.perf_counter() - began) * 1e3)
    return answers, ms


def _together(report: Report, folder: Path) -> None:
    folder.mkdir()
    verdict = run_load(folder, LOAD_S)
    for failure in verdict.failures:
        print(failure)
    peer = f"two writers, two readers, one deleter for {LOAD_S:g} s: {verdict.put} rows put, {verdict.reads} reads"
    report.add("search_shared_lost", verdict.lost, "rows", at_most=0, peer=peer)
    report.add("search_shared_doubled", verdict.doubled, "rows", at_most=0)
    report.add("search_shared_failures", len(verdict.failures), "processes", at_most=0)
