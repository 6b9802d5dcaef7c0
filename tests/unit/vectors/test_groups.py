"""Near-duplicate sets and groups, against plain Python and on data whose answer is known."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import Cancelled
from tests.support.vectors import unit
from worker.vectors.index import Vectors
from worker.vectors.memory import groups
from worker.vectors.memory.groups import duplicate_sets, group


def _vectors(count: int, width: int = 6, seed: int = 0) -> Vectors:
    return unit(np.random.default_rng(seed).normal(size=(count, width)))


def _plain_sets(vectors: Vectors, threshold: float) -> list[list[int]]:
    """Flood fill over all pairs."""
    near = vectors @ vectors.T >= threshold - 1e-6
    left, found = set(range(len(vectors))), []
    while left:
        some = {left.pop()}
        front = list(some)
        while front:
            more = {int(at) for at in np.flatnonzero(near[front.pop()])} - some
            some |= more
            front += more
        left -= some
        if len(some) > 1:
            found.append(sorted(some))
    return sorted(found, key=lambda one: (-len(one), one[0]))


@settings(deadline=None, max_examples=40)
@given(count=st.integers(0, 90), seed=st.integers(0, 99), threshold=st.sampled_from([0.6, 0.8, 0.9, 1.0]))
def test_sets_are_what_flooding_finds(count: int, seed: int, threshold: float) -> None:
    vectors = _vectors(count, seed=seed)
    vectors = np.concatenate([vectors, vectors[: count // 3]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "BLOCK", 16)  # several blocks
        assert duplicate_sets(vectors, threshold) == _plain_sets(vectors, threshold)


def test_copies_of_one_picture_are_one_set_in_bounded_memory() -> None:
    """The worst case: every pair of 2,500 is near, twice, which is several blocks."""
    vectors = np.repeat(_vectors(2), 2_500, axis=0)
    tracemalloc.start()
    found = duplicate_sets(vectors, 0.99)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [len(one) for one in found] == [2_500, 2_500]
    assert found[0][:3] == [0, 1, 2]
    assert peak < 600e6


def _clusters(sizes: Sequence[int], seed: int = 0) -> tuple[Vectors, list[int]]:
    rng = np.random.default_rng(seed)
    centres = unit(np.eye(len(sizes), 12) + 0.01)
    of = [at for at, size in enumerate(sizes) for _ in range(size)]
    order = rng.permutation(len(of))
    vectors = unit(centres[of] + 0.05 * rng.normal(size=(len(of), 12)))
    return vectors[order], [of[at] for at in order]


@pytest.mark.parametrize("seed", range(5))
def test_clear_groups_are_found(seed: int) -> None:
    vectors, of = _clusters([50, 30, 20, 7])
    found = group(vectors, 4, seed)
    assert np.bincount(found.of).tolist() == [50, 30, 20, 7]  # the largest first
    pairs = set(zip(of, found.of.tolist(), strict=True))
    assert len(pairs) == 4
    np.testing.assert_allclose(np.linalg.norm(found.centres, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found.cosines, (vectors * found.centres[found.of]).sum(axis=1), atol=1e-5)
    assert found.cosines.min() > 0.9


def test_the_same_seed_gives_the_same_groups() -> None:
    vectors = _vectors(500, 16)
    first, second, other = group(vectors, 9, 3), group(vectors, 9, 3), group(vectors, 9, 4)
    assert (first.of == second.of).all()
    assert (first.centres == second.centres).all()
    assert not np.array_equal(first.centres, other.centres)


@pytest.mark.parametrize(("rows", "k"), [(0, 3), (1, 3), (5, 5), (5, 9), (300, 299)])
def test_there_are_no_empty_groups(rows: int, k: int) -> None:
    found = group(_vectors(rows), k, 0)
    assert len(found.centres) == min(rows, k)
    assert np.bincount(found.of, minlength=len(found.centres)).all()


def test_copies_make_groups_too() -> None:
    """k-means++ runs out of distance, and all rows are nearest to the same centre."""
    found = group(np.repeat(_vectors(1), 12, axis=0), 5, 0)
    assert np.bincount(found.of).all()
    assert len(found.centres) == 5


def test_rows_are_with_their_nearest_centre() -> None:
    vectors = _vectors(2_000, 8)
    found = group(vectors, 12, 0)
    nearest = (vectors @ found.centres.T).argmax(axis=1)
    assert (nearest == found.of).mean() > 0.97  # all, once it has settled; it may stop at its last round
    worth = found.cosines.sum()
    assert worth > group(vectors, 3, 0).cosines.sum()


def test_both_can_be_stopped_and_tell_how_far_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "BLOCK", 16)
    told: list[float] = []
    duplicate_sets(_vectors(100), 0.9, told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    told.clear()
    group(_vectors(100), 4, 0, told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0

    def stop(share: float) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        duplicate_sets(_vectors(100), 0.9, stop)
    with pytest.raises(Cancelled):
        group(_vectors(100), 4, 0, stop)
