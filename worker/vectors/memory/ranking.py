"""Hits, best first: of a snapshot, exactly; of a table that is not held in memory, from what its index finds.

The order is by cosine, then by id, and the same whenever the same rows are asked. Pages follow each other by a cursor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import InvalidInput
from shared.specs.filters import AnyFilter
from worker.vectors.conditions import Columns, Mask
from worker.vectors.index import Found, Metadata, Vectors, VectorTable
from worker.vectors.memory.cursors import Place, digest_of, place_in, text_of
from worker.vectors.memory.products import cosines_with, log_mean_exp
from worker.vectors.memory.snapshot import Snapshot

__all__ = ["Hit", "Page", "Question", "rank_snapshot", "rank_table"]

GATHER_BELOW = 0.08  # share of rows below which copying them out costs less than the products of all (decision 0011)
MAX_DEDUP_HITS = 10_000  # pages with `dedup` go so deep: each begins at the top
DIVERSE_AT_LEAST = 200  # candidates of maximal marginal relevance, or twice the limit
MAX_FROM_TABLE = 10_000  # candidates asked of an index at once; pages end there

ROUNDING = 1e-6  # of products of unit vectors in float32, on the safe side

Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Question:
    """What is searched, and how the answer is cut. `query` has unit length; `asked` says the same for cursors, which
    are good for the same words only."""

    query: Vectors  # (D,)
    limit: int
    filter_: AnyFilter | None = None
    cursor: str | None = None
    min_cosine: float | None = None
    dedup: float | None = None  # a hit whose cosine with a better one is that high is left out
    diversity: float = 0.0  # 0: by cosine; 1: each as far as possible from those before it
    scale: float | None = None  # the model's logit scale: with it a page tells the background
    asked: str = ""

    @property
    def place(self) -> Place | None:
        """Where the page before ended; None for the first one. Raises InvalidInput for a cursor of another question."""
        return place_in(self.cursor, self.digest) if self.cursor else None

    @property
    def digest(self) -> bytes:
        """Of what a cursor of it must agree with."""
        return digest_of(self.asked, self.filter_, self.min_cosine, self.dedup)


@dataclass(frozen=True)
class Hit:
    """One row found."""

    id: str
    cosine: float
    metadata: Metadata
    added_at_ms: int


@dataclass(frozen=True)
class Page:
    """Some hits. `background`: the log of the mean over all rows of exp(scale * cosine), None without a scale."""

    hits: list[Hit]
    matching: int  # rows that passed the filter
    rows: int
    next_cursor: str | None = None
    background: float | None = None


@dataclass(frozen=True)
class _Pool:
    """Rows that may become hits: cosines, ids and a way to their vectors, in any order."""

    cosines: Vectors  # (M,)
    ids: NDArray[Any]  # (M,) of str
    vectors_at: Callable[[Ints], Vectors] = field(repr=False)  # positions (K,) -> (K, D)


def rank_snapshot(snapshot: Snapshot, columns: Columns, question: Question) -> Page:
    """Exactly. Raises InvalidInput (field `cursor`) for a cursor of another question."""
    mask = snapshot.mask(question.filter_, columns)
    matching = snapshot.rows if mask is None else int(np.count_nonzero(mask))
    cosines, at, background = _cosines(snapshot, question, mask, matching)
    pool = _Pool(cosines, snapshot.ids, lambda rows: snapshot.vectors[rows])
    if at is not None:  # some rows only
        pool = _Pool(cosines, snapshot.ids[at], lambda rows: snapshot.vectors[at[rows]])
    chosen, more = _choose(pool, question)
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
    chosen, more = _choose(_Pool(cosines, ids, lambda at: vectors[at]), question)
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


def _choose(pool: _Pool, question: Question) -> tuple[Ints, bool]:
    """Which positions of the pool are this page's, best first, and whether there are more."""
    place = question.place
    allowed = np.arange(len(pool.cosines))
    if question.min_cosine is not None:
        allowed = np.flatnonzero(pool.cosines >= question.min_cosine)
    if question.diversity:
        return _diverse(pool, allowed, question), False
    if question.dedup is not None:
        return _distinct(pool, allowed, question.dedup, place, question.limit)
    if place is not None:
        allowed = _behind(pool, allowed, place)
    chosen = _top(pool, allowed, question.limit)
    return chosen, len(allowed) > len(chosen)


def _behind(pool: _Pool, allowed: Ints, place: Place) -> Ints:
    cosines = pool.cosines[allowed]
    lower = allowed[cosines < place.cosine]
    nearest = lower[pool.cosines[lower] >= place.cosine - ROUNDING]
    # The last page's last hit is not shown again, though its cosine may have been rounded otherwise then.
    if again := [at for at in nearest if pool.ids[at] == place.id]:
        lower = lower[lower != again[0]]
    same = allowed[cosines == np.float32(place.cosine)]
    later = [at for at in same if pool.ids[at] > place.id]
    return np.concatenate([lower, np.array(later, np.intp)])


def _top(pool: _Pool, allowed: Ints, count: int) -> Ints:
    """The best of the allowed positions, in order. Ties at the end are settled by id as everywhere else."""
    cosines = pool.cosines[allowed]
    if len(allowed) > count:
        least = np.partition(cosines, len(cosines) - count)[len(cosines) - count]
        keep = cosines >= least
        allowed, cosines = allowed[keep], cosines[keep]
    order = sorted(range(len(allowed)), key=lambda at: (-float(cosines[at]), pool.ids[allowed[at]]))
    return allowed[np.array(order[:count], np.intp)]


def _distinct(pool: _Pool, allowed: Ints, dedup: float, place: Place | None, limit: int) -> tuple[Ints, bool]:
    """Greedily from the top, so that later pages know what earlier ones took."""
    taken: list[int] = []
    kept: list[Vectors] = []  # vectors of `taken`, in blocks
    page: list[int] = []
    size = 256
    done = 0
    while done < len(allowed):
        block = _top(pool, allowed, done + size)[done:]
        done += len(block)
        size = done  # twice as many each time: sorting the first ones again costs little
        for start in range(0, len(block), 256):
            part = block[start : start + 256]
            vectors = pool.vectors_at(part)
            for at in _unlike(vectors, kept, dedup):
                if len(page) == limit:
                    return np.array(page, np.intp), True
                if len(taken) >= MAX_DEDUP_HITS:
                    raise InvalidInput(
                        "pages without near-duplicates end here", field="cursor", limit=f"{MAX_DEDUP_HITS} hits"
                    )
                kept.append(vectors[at : at + 1])
                taken.append(int(part[at]))
                if place is None or _is_behind(pool, taken[-1], place):
                    page.append(taken[-1])
    return np.array(page, np.intp), False


def _is_behind(pool: _Pool, at: int, place: Place) -> bool:
    cosine = float(pool.cosines[at])
    if pool.ids[at] == place.id:
        return False
    return cosine < place.cosine or (cosine == place.cosine and pool.ids[at] > place.id)


def _unlike(vectors: Vectors, kept: list[Vectors], dedup: float) -> list[int]:
    """Which of a block are far enough from those kept and from those of the block before them."""
    dedup -= ROUNDING  # a row and its copy may be 0.9999999 to each other
    alike = np.zeros(len(vectors), bool)
    if kept:
        alike |= (vectors @ np.concatenate(kept).T).max(axis=1) >= dedup
    among = vectors @ vectors.T >= dedup
    chosen: list[int] = []
    for at in np.flatnonzero(~alike):
        if not among[at, chosen].any():
            chosen.append(int(at))
    return chosen


def _diverse(pool: _Pool, allowed: Ints, question: Question) -> Ints:
    """Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998) over the best few hundred."""
    best = _top(pool, allowed, max(DIVERSE_AT_LEAST, 2 * question.limit))
    if not len(best):
        return best
    vectors = pool.vectors_at(best)
    if question.dedup is not None:
        kept = _unlike(vectors, [], question.dedup)
        best, vectors = best[kept], vectors[kept]
    worth = (1 - question.diversity) * pool.cosines[best]
    nearest = np.full(len(best), -1.0, np.float32)  # cosine with the nearest one chosen
    is_free = np.ones(len(best), bool)
    chosen = [0]  # nothing to differ from yet: the best one
    while True:
        is_free[chosen[-1]] = False
        if len(chosen) == min(question.limit, len(best)):
            return best[chosen]
        nearest = np.maximum(nearest, vectors @ vectors[chosen[-1]])
        chosen.append(int(np.argmax(np.where(is_free, worth - question.diversity * nearest, -np.inf))))


def _next(hits: list[Hit], question: Question, more: bool) -> str | None:
    if not more or not hits or question.diversity:
        return None
    return text_of(Place(hits[-1].cosine, hits[-1].id), question.digest)
