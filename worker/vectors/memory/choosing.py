"""Which of the rows found are a page's hits: the nearest, the nearest that differ, or the most diverse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import InvalidInput
from worker.vectors.index import Vectors
from worker.vectors.memory.cursors import Place
from worker.vectors.memory.question import Question

__all__ = ["DIVERSE_AT_LEAST", "Ints", "Pool", "choose"]

MAX_DEDUP_HITS = 10_000  # pages with `dedup` go so deep: each begins at the top
DIVERSE_AT_LEAST = 200  # candidates of maximal marginal relevance, or twice the limit
ROUNDING = 1e-6  # of products of unit vectors in float32, on the safe side

Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Pool:
    """Rows that may become hits: cosines, ids and a way to their vectors, in any order."""

    cosines: Vectors  # (M,)
    ids: NDArray[Any]  # (M,) of str
    vectors_at: Callable[[Ints], Vectors] = field(repr=False)  # positions (K,) -> (K, D)


def choose(pool: Pool, question: Question) -> tuple[Ints, bool]:
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


def _behind(pool: Pool, allowed: Ints, place: Place) -> Ints:
    cosines = pool.cosines[allowed]
    lower = allowed[cosines < place.cosine]
    nearest = lower[pool.cosines[lower] >= place.cosine - ROUNDING]
    if again := [at for at in nearest if pool.ids[at] == place.id]:  # the query's last bit moved, and the last hit's
        lower = lower[lower != again[0]]
    same = allowed[cosines == np.float32(place.cosine)]
    later = [at for at in same if pool.ids[at] > place.id]
    return np.concatenate([lower, np.array(later, np.intp)])


def _top(pool: Pool, allowed: Ints, count: int) -> Ints:
    """The best of the allowed positions, in order. Ties at the end are settled by id as everywhere else."""
    cosines = pool.cosines[allowed]
    if len(allowed) > count:
        least = np.partition(cosines, len(cosines) - count)[len(cosines) - count]
        keep = cosines >= least
        allowed, cosines = allowed[keep], cosines[keep]
    order = sorted(range(len(allowed)), key=lambda at: (-float(cosines[at]), pool.ids[allowed[at]]))
    return allowed[np.array(order[:count], np.intp)]


def _distinct(pool: Pool, allowed: Ints, dedup: float, place: Place | None, limit: int) -> tuple[Ints, bool]:
    """Greedily from the top, so that later pages know what earlier ones took."""
    taken: list[int] = []
    kept: list[Vectors] = []  # vectors of `taken`, in blocks
    page: list[int] = []
    size = 256
    done = 0
    while done < len(allowed):
        block = _top(pool, allowed, done + size)[done:]
        done += len(block)
        size = done  # doubling: what is sorted again was cheap to sort
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


def _is_behind(pool: Pool, at: int, place: Place) -> bool:
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


def _diverse(pool: Pool, allowed: Ints, question: Question) -> Ints:
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
