"""What pictures have to do with each other: sets of near-duplicates, and groups of such as are alike. Pure numpy.

All pairs are looked at in blocks, so that memory stays bounded; `step` is called between blocks, to tell how far it is
and to stop: what it raises comes through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.vectors.index import Vectors
from worker.vectors.memory.products import cosines_with

__all__ = ["Groups", "duplicate_sets", "group"]

BLOCK = 2_048  # rows against rows at once: 16 MB of cosines
MAX_ROUNDS = 50  # of k-means; it settles much earlier on all but strange data
SEED_ROWS = 20_000  # rows among which the first centres are looked for
ROUNDING = 1e-6  # of products of unit vectors in float32: a row and its copy may be 0.9999999 to each other

Ints = NDArray[np.intp]
Step = Callable[[float], None]  # the share done, 0 to 1


@dataclass(frozen=True)
class Groups:
    """Of k-means on the sphere. Groups are by size, the largest first."""

    centres: Vectors  # (k, D), unit length
    of: Ints  # (N,) which group each row is in
    cosines: Vectors  # (N,) with its group's centre


def _silent(_: float) -> None:
    pass


def duplicate_sets(vectors: Vectors, threshold: float, step: Step = _silent) -> list[list[int]]:
    """Rows connected by cosines of at least `threshold`, directly or over others: sets of two and more, the largest
    first, positions rising. Work grows with the square of the rows, memory does not."""
    root = np.arange(len(vectors))
    starts = range(0, len(vectors), BLOCK)
    pairs = len(starts) * (len(starts) + 1) / 2
    done = 0
    for start in starts:
        rows = vectors[start : start + BLOCK]
        for other in range(start, len(vectors), BLOCK):
            cosines = rows @ vectors[other : other + BLOCK].T
            left, right = np.nonzero(cosines >= threshold - ROUNDING)
            _connect(root, left + start, right + other)
            done += 1
            step(done / pairs)
    sets: dict[int, list[int]] = {}
    for at, of in enumerate(root.tolist()):
        sets.setdefault(of, []).append(at)
    return sorted((found for found in sets.values() if len(found) > 1), key=lambda found: (-len(found), found[0]))


def _connect(root: Ints, left: Ints, right: Ints) -> None:
    """Every row's root is the first row of its set, before and after."""
    while True:
        one, two = root[left], root[right]
        apart = one != two
        if not apart.any():
            return
        left, right = left[apart], right[apart]
        np.minimum.at(root, np.maximum(one, two)[apart], np.minimum(one, two)[apart])
        while not np.array_equal(above := root[root], root):
            root[:] = above


def group(vectors: Vectors, k: int, seed: int, step: Step = _silent) -> Groups:
    """k-means on the sphere (Dhillon and Modha 2001), begun by k-means++ (Arthur and Vassilvitskii 2007). With fewer
    rows than k there are as many groups as rows. The same rows in the same order and the same seed give the same."""
    k = min(k, len(vectors))
    if not k:
        return Groups(vectors[:0], np.zeros(0, np.intp), np.zeros(0, np.float32))
    rng = np.random.default_rng(seed)
    centres = _first_centres(vectors, k, rng)
    of = np.full(len(vectors), -1, np.intp)
    cosines = np.zeros(len(vectors), np.float32)
    for turn in range(MAX_ROUNDS):
        now, cosines = _nearest(vectors, centres)
        _fill_empty(now, cosines, k)
        if np.array_equal(now, of):
            break
        of = now
        centres = _means(vectors, of, centres)
        step((turn + 1) / MAX_ROUNDS)
    step(1.0)
    order = np.argsort(-np.bincount(of, minlength=k), kind="stable")
    rank = np.empty(k, np.intp)
    rank[order] = np.arange(k)
    return Groups(centres[order], rank[of], np.einsum("nd,nd->n", vectors, centres[of]))


def _first_centres(vectors: Vectors, k: int, rng: np.random.Generator) -> Vectors:
    """Each is drawn with a chance that grows with its distance from those before it."""
    rows = len(vectors)
    some = np.sort(rng.choice(rows, max(SEED_ROWS, 4 * k), replace=False)) if rows > max(SEED_ROWS, 4 * k) else None
    pool = vectors if some is None else vectors[some]
    chosen = [int(rng.integers(len(pool)))]
    distance = np.full(len(pool), np.inf)
    while len(chosen) < k:
        distance = np.minimum(distance, np.maximum(1.0 - cosines_with(pool, pool[chosen[-1]]), 0.0))
        distance[chosen] = 0.0
        total = distance.sum()
        chance = distance / total if total > 0 else None  # all are copies of those chosen
        if chance is None:
            left = np.setdiff1d(np.arange(len(pool)), chosen)
            chosen.append(int(rng.choice(left)))
        else:
            chosen.append(int(rng.choice(len(pool), p=chance)))
    return pool[chosen].copy()


def _nearest(vectors: Vectors, centres: Vectors) -> tuple[Ints, Vectors]:
    of = np.empty(len(vectors), np.intp)
    best = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), BLOCK):
        cosines = vectors[start : start + BLOCK] @ centres.T
        of[start : start + BLOCK] = cosines.argmax(axis=1)
        best[start : start + BLOCK] = cosines.max(axis=1)
    return of, best


def _fill_empty(of: Ints, cosines: Vectors, k: int) -> None:
    """An empty group gets the row that is farthest from its own centre, of a group that keeps another one."""
    sizes = np.bincount(of, minlength=k)
    if sizes.all():
        return
    farthest = iter(np.argsort(cosines, kind="stable").tolist())
    for empty in np.flatnonzero(sizes == 0):
        at = next(at for at in farthest if sizes[of[at]] > 1)
        sizes[of[at]] -= 1
        of[at], cosines[at] = empty, 1.0
        sizes[empty] = 1


def _means(vectors: Vectors, of: Ints, before: Vectors) -> Vectors:
    """The direction of each group's sum; where it has none, what it was."""
    sums = np.zeros_like(before, dtype=np.float64)
    order = np.argsort(of, kind="stable")
    starts = np.searchsorted(of[order], np.arange(len(before)))
    for at, start in enumerate(starts):
        stop = starts[at + 1] if at + 1 < len(starts) else len(order)
        for piece in range(start, stop, BLOCK):
            sums[at] += vectors[order[piece : min(piece + BLOCK, stop)]].sum(axis=0, dtype=np.float64)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    directions = (sums / np.maximum(lengths, 1e-12)).astype(np.float32)
    return np.where(lengths > 1e-12, directions, before)
