"""Token choice by row, and the counter-based noise under it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worker.models.noise import fold, gumbel, key_of, normal, uniform
from worker.models.sampling import guide, gumbel_noise, sample_tokens


def settings(*rows: tuple[float, int, float]) -> tuple[Tensor, Tensor, Tensor]:
    temperature, top_k, top_p = zip(*rows, strict=True)
    return torch.tensor(temperature), torch.tensor(top_k), torch.tensor(top_p)


def test_noise_depends_on_seed_picture_and_step_alone() -> None:
    seed, image = torch.tensor([0, 0, 2**63 - 1]), torch.tensor([0, 1, 0])
    together = gumbel_noise(seed, image, 5, 64)
    alone = gumbel_noise(seed[2:], image[2:], torch.tensor([5]), 64)
    assert torch.equal(together[2:], alone)
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together, gumbel_noise(seed, image, 6, 64))
    assert torch.equal(together[:, :32], gumbel_noise(seed, image, 5, 32))


def test_the_numbers_are_spread_as_they_should_be() -> None:
    key = key_of(7)
    u, n, g = uniform(key, 200_000), normal(key, 200_000), gumbel(key, 200_000)
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


def test_every_row_keeps_to_its_own_settings() -> None:
    logits = torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0]).repeat(4, 1)
    noise = torch.tensor([0.0, 0.0, 0.0, 0.0, 50.0]).repeat(4, 1)  # would pick the last token
    chosen = sample_tokens(logits, *settings((1.0, 0, 1.0), (0.0, 0, 1.0), (1.0, 2, 1.0), (1.0, 0, 0.5)), noise)
    assert chosen.tolist() == [4, 0, 0, 0]


def test_top_p_keeps_the_token_that_reaches_it() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    noise = torch.tensor([[0.0, 50.0, 0.0]])
    assert int(sample_tokens(logits, *settings((1.0, 0, 0.5)), noise)) == 0
    assert int(sample_tokens(logits, *settings((1.0, 0, 0.51)), noise)) == 1


def test_draws_follow_the_logits() -> None:
    count = 20_000
    logits = torch.tensor([0.7, 0.2, 0.1]).log().expand(count, -1)
    noise = gumbel_noise(torch.zeros(count, dtype=torch.int64), torch.arange(count), 0, 3)
    many = settings(*[(1.0, 0, 1.0)] * count)
    shares = torch.bincount(sample_tokens(logits, *many, noise), minlength=3) / count
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.2, 0.1]), atol=0.02, rtol=0)


def test_guidance_mixes_by_row() -> None:
    conditional, empty = torch.tensor([[2.0], [2.0]]), torch.tensor([[1.0], [1.0]])
    assert guide(conditional, empty, torch.tensor([1.0, 3.0])).flatten().tolist() == [2.0, 4.0]
