"""Hits, best first: of a snapshot, exactly; of a table that is not held in memory, from what its index finds.

The order is by cosine, then by id, and the same whenever the same rows are asked. Pages follow each other by a cursor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worker.vectors.conditions import Columns, Mask
from worker.vectors.index import Found, Vectors, VectorTable
from worker.vectors.memory.choosing import DIVERSE_AT_LEAST, Ints, Pool, choose
from worker.vectors.memory.cursors import Place, text_of
from worker.vectors.memory.products import cosines_with, log_mean_exp
from worker.vectors.memory.question import Hit, Page, Question
from worker.vectors.memory.snapshot import Snapshot

__all__ = ["rank_snapshot", "rank_table"]

GATHER_BELOW = 0.08  # share of rows below which copying them out costs less than the products of all (decision 0011)
MAX_FROM_TABLE = 10_000  # candidates asked of an index at once; pages end there


def rank_snapshot(snapshot: Snapshot, columns: Columns, question: Question) -> Page:
    """Exactly. Raises InvalidInput (field `cursor`) for a cursor of another question."""
    mask = snapshot.mask(question.filter_, columns)
    matching = snapshot.rows if mask is None else int(np.count_nonzero(mask))
    cosines, at, background = _cosines(snapshot, question, mask, matching)
    pool = Pool(cosines, snapshot.ids, lambda rows: snapshot.vectors[rows])
    if at is not None:  # some rows only
        pool = Pool(cosines, snapshot.ids[at], lambda rows: snapshot.vectors[at[rows]])
    chosen, more = choose(pool, question)
    rows = [int(row) for row in (chosen if at is None else at[chosen])]
    hits = [
        Hit(snapshot.ids[row], float(cosines[place]), snapshot.metadata(row), int(snapshot.added_at_ms[row]))
        for row, place in zip(rows, chosen, strict=True)
    ]
    return Page(hits, matching, snapshot.rows, _next(hits, question, more), background)


def _cosines(
    snapshot: Snapshot, question: Question, mask: Mask | None, matching: int
) -> tuple[Vectors, Ints | None, float | None]:
    """Of the rows that match, where they are (None: everywhere), and the background."""
    if mask is not None and question.scale is None and matching < GATHER_BELOW * snapshot.rows:
        at = np.flatnonzero(mask)
        return cosines_with(snapshot.vectors[at], question.query), at, None
    cosines = cosines_with(snapshot.vectors, question.query)
    background = None if question.scale is None else log_mean_exp(cosines, question.scale)
    if mask is None:
        return cosines, None, background
    at = np.flatnonzero(mask)
    return cosines[at], at, background


def rank_table(table: VectorTable, columns: Columns, question: Question, sample: Vectors | None = None) -> Page:
    """From what the index finds, which may miss a row now and then. `sample`: (M, D) vectors of rows of the table, from
    which the background is guessed; the best candidates' own part in it is exact."""
    is_first_page = question.place is None  # a bad cursor is refused before anything is asked
    rows = table.count()
    matching = rows if question.filter_ is None else table.count(question.filter_, columns)
    wanted = _needed(question)
    best = _candidates(table, columns, question, wanted)
    while not best.is_all and (len(best.chosen) < question.limit or not (best.more or is_first_page)):
        wanted = min(wanted * 4, MAX_FROM_TABLE)
        best = _candidates(table, columns, question, wanted)
    hits = best.hits()
    more = best.more or (not best.is_all and len(hits) == question.limit)
    background = None
    if question.scale is not None:
        background = _guessed_background(best.cosines, sample, question, rows)
    return Page(hits, matching, rows, _next(hits, question, more), background)


@dataclass(frozen=True)
class _Candidates:
    """What an index found, and which of it is this page's."""

    found: list[Found]
    cosines: Vectors  # (M,), of `found`
    chosen: Ints  # positions in `found`, best first
    more: bool  # there are others behind the chosen ones
    is_all: bool  # asking for more candidates would find no further hit

    def hits(self) -> list[Hit]:
        """The chosen ones, best first."""
        rows = [(self.found[int(at)].row, float(self.cosines[at])) for at in self.chosen]
        return [Hit(row.id, cosine, row.metadata, row.added_at_ms) for row, cosine in rows]


def _candidates(table: VectorTable, columns: Columns, question: Question, wanted: int) -> _Candidates:
    found = table.search(question.query, wanted, columns, question.filter_)
    vectors = np.stack([one.row.vector for one in found]) if found else np.zeros((0, table.width), np.float32)
    cosines = cosines_with(vectors, question.query)  # an index may tell less exact ones
    ids = np.array([one.row.id for one in found], object)
    chosen, more = choose(Pool(cosines, ids, lambda at: vectors[at]), question)
    is_low = question.min_cosine is not None and bool((cosines < question.min_cosine).any())
    is_all = len(found) < wanted or wanted >= MAX_FROM_TABLE or is_low
    return _Candidates(found, cosines, chosen, more, is_all)


def _needed(question: Question) -> int:
    """Candidates to begin with."""
    if question.diversity or question.dedup is not None or question.cursor:
        return max(DIVERSE_AT_LEAST, 2 * question.limit)
    return question.limit + 1  # one more tells whether there is a next page


def _guessed_background(top: Vectors, sample: Vectors | None, question: Question, rows: int) -> float:
    scale = question.scale or 1.0
    if sample is None or not len(sample) or len(top) >= rows:
        return log_mean_exp(top, scale)
    rest = cosines_with(sample, question.query)
    rest = rest[~np.isin(rest, top)]  # exact: a row's cosine is the same to the last bit in both
    low = log_mean_exp(rest, scale) + np.log((rows - len(top)) / rows)
    high = log_mean_exp(top, scale) + np.log(len(top) / rows) if len(top) else -np.inf
    return float(np.logaddexp(low, high))


def _next(hits: list[Hit], question: Question, more: bool) -> str | None:
    if not more or not hits or question.diversity:
        return None
    return text_of(Place(hits[-1].cosine, hits[-1].id), question.digest)
