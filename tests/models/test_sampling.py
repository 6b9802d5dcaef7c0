"""Token choice by row, and the counter-based noise under it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from worker.models.dalle import sampling
from worker.models.dalle.sampling import Choice, guide, sample_tokens
from worker.models.noise import fold, gumbel_at, key_of, normal, uniform, uniform_at


@dataclass
class Row:
    """How one row is drawn."""

    temperature: float
    top_k: int
    top_p: float


def settings(*rows: tuple[float, int, float]) -> Choice:
    return Choice.of([Row(*row) for row in rows])


def noise_of(seed: Tensor, image: Tensor, step: int, vocab: int) -> Tensor:
    return gumbel_at(fold(fold(seed, image), step)[:, None], torch.arange(vocab))


def test_noise_depends_on_seed_picture_and_step_alone() -> None:
    seed, image = torch.tensor([0, 0, 2**63 - 1]), torch.tensor([0, 1, 0])
    together = noise_of(seed, image, 5, 64)
    alone = noise_of(seed[2:], image[2:], 5, 64)
    assert torch.equal(together[2:], alone)
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together, noise_of(seed, image, 6, 64))
    assert torch.equal(together[:, :32], noise_of(seed, image, 5, 32))


def test_some_of_the_numbers_are_those_among_all() -> None:
    key, lanes = key_of(3), torch.tensor([5, 0, 63])
    assert torch.equal(uniform(key, 64)[lanes], uniform_at(key, lanes))


def test_the_numbers_are_spread_as_they_should_be() -> None:
    key = key_of(7)
    u, n, g = uniform(key, 200_000), normal(key, 200_000), gumbel_at(key, torch.arange(200_000))
    assert float(u.min()) > 0.0
    assert float(u.max()) <= 1.0
    assert float(u.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(u.var()) == pytest.approx(1 / 12, abs=0.002)
    assert float(n.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(n.std()) == pytest.approx(1.0, abs=0.01)
    assert float(g.mean()) == pytest.approx(0.5772, abs=0.01)
    assert all(torch.isfinite(part).all() for part in (u, n, g))


def test_neighbouring_keys_are_unrelated() -> None:
    a = uniform(fold(key_of(0), 1), 50_000) - 0.5
    b = uniform(fold(key_of(0), 2), 50_000) - 0.5
    assert abs(float((a * b).mean()) * 12) < 0.02


@pytest.fixture
def favoured(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Noise that picks one token wherever it is among the candidates."""

    def favour(token: int) -> None:
        monkeypatch.setattr(sampling, "gumbel_at", lambda _keys, lanes: 50.0 * (lanes == token))

    return favour


def test_every_row_keeps_to_its_own_settings(favoured: Callable[[int], None]) -> None:
    favoured(4)
    logits = torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0]).repeat(4, 1)
    choice = settings((1.0, 0, 1.0), (0.0, 0, 1.0), (1.0, 2, 1.0), (1.0, 0, 0.5))
    assert sample_tokens(logits, choice, torch.zeros(4, dtype=torch.int64)).tolist() == [4, 0, 0, 0]


def test_top_p_keeps_the_token_that_reaches_it(favoured: Callable[[int], None]) -> None:
    favoured(1)
    logits, key = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.zeros(1, dtype=torch.int64)
    assert int(sample_tokens(logits, settings((1.0, 0, 0.5)), key)) == 0
    assert int(sample_tokens(logits, settings((1.0, 0, 0.51)), key)) == 1


def test_a_neighbours_settings_change_nothing() -> None:
    """More candidates for one row are not more for another."""
    logits, keys = torch.randn(3, 40), fold(torch.zeros(3, dtype=torch.int64), torch.arange(3))
    rows = ((1.0, 5, 1.0), (0.7, 0, 0.9), (1.3, 12, 1.0))
    together = sample_tokens(logits, settings(*rows), keys)
    for place, row in enumerate(rows):
        alone = sample_tokens(logits[place : place + 1], settings(row), keys[place : place + 1])
        assert int(alone) == int(together[place])


def test_draws_follow_the_logits() -> None:
    count = 20_000
    logits = torch.tensor([0.7, 0.2, 0.1]).log().expand(count, -1)
    keys = fold(torch.zeros(count, dtype=torch.int64), torch.arange(count))
    drawn = sample_tokens(logits, settings(*[(1.0, 0, 1.0)] * count), keys)
    shares = torch.bincount(drawn, minlength=3) / count
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.2, 0.1]), atol=0.02, rtol=0)


def test_guidance_mixes_by_row() -> None:
    conditional, empty = torch.tensor([[2.0], [2.0]]), torch.tensor([[1.0], [1.0]])
    assert guide(conditional, empty, torch.tensor([1.0, 3.0])).flatten().tolist() == [2.0, 4.0]
