"""unCLIP's two networks, the diffusion under them, and their samplers: a row never depends on its neighbours."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.models.conftest import TINY_UNCLIP
from worker.checkpoints.loading import open_folder, save_model
from worker.models.errors import ConfigError, RangeError, ShapeError
from worker.models.unclip.diffusion import (
    Denoiser,
    DiffusionRow,
    DiffusionRows,
    DiffusionSampler,
    clean_of,
    ddim,
    mixed_with,
    velocity,
)
from worker.models.unclip.sampler import (
    check_fit,
    codes_of,
    decoder_denoiser,
    decoder_sampler,
    picture_vectors,
    prior_sampler,
)
from worker.models.unclip.unclip import Unclip, UnclipConfig
from worker.models.vqgan.vqgan import VQGAN


def rows(count: int, steps: int = 5, guidance: float = 2.0, seed: int = 0) -> list[DiffusionRow]:
    return [DiffusionRow(seed, index, steps, guidance) for index in range(count)]


def vectors(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.nn.functional.normalize(torch.randn(count, 8, generator=generator), dim=-1)


def run(sampler: DiffusionSampler) -> Tensor:
    while not sampler.step():
        pass
    return sampler.rows


def test_the_velocity_stands_for_the_thing_at_every_time() -> None:
    noise, clean, time = torch.randn(5, 3, 2, 2), torch.randn(5, 3, 2, 2), torch.linspace(0, 1, 5)
    noisy = mixed_with(noise, clean, time)
    torch.testing.assert_close(clean_of(noisy, velocity(noise, clean, time), time), clean)
    torch.testing.assert_close(noisy[0], clean[0])
    torch.testing.assert_close(noisy[-1], noise[-1], atol=1e-6, rtol=0)


def test_ddim_follows_the_known_way_of_one_point() -> None:
    noise, clean = torch.randn(3, 4), torch.randn(3, 4)
    time, later = torch.tensor([1.0, 0.6, 0.3]), torch.tensor([0.5, 0.3, 0.0])
    moved = ddim(mixed_with(noise, clean, time), clean, time, later)
    torch.testing.assert_close(moved, mixed_with(noise, clean, later), atol=1e-5, rtol=0)


def test_sampling_draws_from_the_distribution_that_the_network_knows() -> None:
    """Of N(3, 0.5), whose best prediction is known in closed form, 400 rows come back with that mean and spread."""
    mean, spread = 3.0, 0.5

    def predict(noisy: Tensor, time: Tensor, _which: Tensor, _silent: Tensor) -> Tensor:
        alpha, sigma = (time * math.pi / 2).cos()[:, None], (time * math.pi / 2).sin()[:, None]
        gain = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2)
        return mean + gain * (noisy - alpha * mean)

    drawn = run(DiffusionSampler(Denoiser(predict, [1], 0), rows(400, steps=50, guidance=1.0), torch.zeros(400, 1)))
    assert abs(float(drawn.mean()) - mean) < 0.1
    assert abs(float(drawn.std()) - spread) < 0.1


def test_rows_of_different_lengths_share_a_batch(unclip: Unclip) -> None:
    lengths = (3, 7, 5)
    mixed = [DiffusionRow(0, index, steps, 2.0) for index, steps in enumerate(lengths)]
    together = prior_sampler(unclip, vectors(3), mixed)
    assert together.length == 7
    drawn = run(together)
    for index in range(3):
        alone = run(prior_sampler(unclip, vectors(3)[index : index + 1], mixed[index : index + 1]))
        gap = float((alone[0] - drawn[index]).abs().max())
        assert gap < 1e-4, f"row {index} differs by {gap} in company"


def test_the_same_seed_gives_the_same_codes_in_any_batch(unclip: Unclip, small_vqgan: VQGAN) -> None:
    pictures = vectors(1).expand(5, -1)
    together = codes_of(unclip, small_vqgan, run(decoder_sampler(unclip, small_vqgan, pictures, rows(5))))
    assert len({tuple(row.flatten().tolist()) for row in together}) == 5
    for index in (0, 3):
        row = [DiffusionRow(0, index, 5, 2.0)]
        alone = codes_of(unclip, small_vqgan, run(decoder_sampler(unclip, small_vqgan, pictures[:1], row)))
        assert torch.equal(alone[0], together[index])


def test_guidance_of_one_runs_the_condition_alone(unclip: Unclip, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    inner = unclip.prior.forward
    monkeypatch.setattr(unclip.prior, "forward", lambda noisy, *rest: seen.append(len(noisy)) or inner(noisy, *rest))
    run(prior_sampler(unclip, vectors(2), rows(2, steps=1, guidance=1.0)))
    run(prior_sampler(unclip, vectors(2), rows(2, steps=1, guidance=3.0)))
    assert seen == [2, 4]


def test_guidance_moves_away_from_what_no_condition_gives(unclip: Unclip) -> None:
    def one(scale: float) -> Tensor:
        sampler = prior_sampler(unclip, vectors(1), rows(1, steps=1, guidance=scale))
        return run(sampler)

    torch.testing.assert_close(one(3.0) - one(1.0), 2 * (one(1.0) - one(0.0)), atol=1e-4, rtol=1e-3)
    assert float((one(1.0) - one(0.0)).abs().max()) > 1e-4


def test_the_prior_gives_unit_vectors(unclip: Unclip) -> None:
    sampler = prior_sampler(unclip, vectors(3), rows(3))
    run(sampler)
    torch.testing.assert_close(picture_vectors(unclip, sampler).norm(dim=1), torch.ones(3))
    whitened = unclip.whiten(vectors(3))
    torch.testing.assert_close(unclip.unit(whitened), vectors(3))


def test_an_estimate_stays_within_the_codes(unclip: Unclip, small_vqgan: VQGAN) -> None:
    sampler = decoder_sampler(unclip, small_vqgan, vectors(2), rows(2, guidance=50.0))
    sampler.step()
    low, high = small_vqgan.codebook_range()
    latent = unclip.latent(sampler.estimate)
    assert bool((latent >= low[:, None, None] - 1e-5).all())
    assert bool((latent <= high[:, None, None] + 1e-5).all())
    assert not sampler.done


def test_seeds_and_pictures_have_noise_of_their_own(unclip: Unclip, small_vqgan: VQGAN) -> None:
    starts = [
        decoder_sampler(unclip, small_vqgan, vectors(1), [DiffusionRow(seed, image, 5, 1.0)]).rows
        for seed, image in ((0, 0), (0, 1), (1, 0))
    ]
    assert all(not torch.equal(a, b) for a, b in pairwise(starts))
    assert abs(float(torch.cat(starts).std()) - 1.0) < 0.2


@pytest.mark.parametrize("bad", [{"seed": -1}, {"steps": 0}, {"steps": 1001}, {"guidance": -1.0}])
def test_rows_that_mean_nothing_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(RangeError):
        DiffusionRow(**{"seed": 0, "image": 0, "steps": 5, "guidance": 1.0, **bad})  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused(unclip: Unclip, vqgan: VQGAN, small_vqgan: VQGAN) -> None:
    check_fit(unclip, small_vqgan, 8)
    with pytest.raises(ShapeError, match="4, 4, 8"):
        check_fit(unclip, vqgan, 8)  # 8x8 cells
    with pytest.raises(ShapeError):
        prior_sampler(unclip, torch.zeros(2, 9), rows(2))
    with pytest.raises(ShapeError):
        decoder_sampler(unclip, small_vqgan, vectors(2), rows(3))


def test_settings_that_cannot_be_built_are_refused() -> None:
    with pytest.raises(ConfigError, match="sampler"):
        UnclipConfig.from_dict({"sampler": "ddpm"})
    with pytest.raises(ConfigError, match="heads"):
        UnclipConfig(width=30, heads=4)
    with pytest.raises(ConfigError, match="positive"):
        UnclipConfig(grid=0)


def test_it_comes_back_from_its_folder_with_its_spreads(tmp_path: Path, unclip: Unclip) -> None:
    unclip.latent_spread.fill_(2.0)
    save_model(unclip, tmp_path / "unclip", torch.float32)
    again = open_folder("unclip", tmp_path / "unclip")
    assert isinstance(again, Unclip)
    assert again.config == TINY_UNCLIP
    assert float(again.latent_spread[0]) == 2.0
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), unclip.parameters(), strict=True))


def co_batched(
    unclip: Unclip, vqgan: VQGAN, numbers: list[int], width: int | None, *, late: int | None = None
) -> dict[int, Tensor]:
    """Rows of different seeds, steps, conditions and guidance (some of none), one of them perhaps two steps late and
    outside for a while."""
    denoiser = decoder_denoiser(unclip, vqgan)
    kinds = [DiffusionRow(number, number % 2, 3 + number % 4, (1.0, 2.0, 4.0)[number % 3]) for number in range(16)]
    states = dict(enumerate(denoiser.start(kinds, vectors(16))))
    shared = DiffusionRows(denoiser)
    shared.push([states[number] for number in numbers if number != late])
    step = 0
    while shared.states or step < 5:
        if late is not None and step in (2, 4):
            shared.push([states[late]])
        if shared.states:
            shared.step(width, is_padded=width is not None)
        shared.pull([state for state in shared.states if state.done or (step == 2 and state is states.get(late))])
        step += 1
    assert all(states[number].done for number in numbers)
    return {number: states[number].noisy for number in numbers}


@pytest.mark.parametrize("count", [2, 7, 16])
def test_in_one_shape_of_pass_a_row_is_the_same_to_the_bit(unclip: Unclip, small_vqgan: VQGAN, count: int) -> None:
    late = count - 1
    shared = co_batched(unclip, small_vqgan, list(range(count)), 8, late=late)
    for number in {0, count // 2, late}:
        alone = co_batched(unclip, small_vqgan, [number], 8)[number]
        assert torch.equal(shared[number], alone), f"row {number} differs among {count}"


def test_in_any_shape_of_pass_a_row_is_the_same_but_for_last_bits(unclip: Unclip, small_vqgan: VQGAN) -> None:
    shared = co_batched(unclip, small_vqgan, list(range(16)), None)
    split = co_batched(unclip, small_vqgan, list(range(16)), 5)
    for number in range(16):
        alone = co_batched(unclip, small_vqgan, [number], None)[number]
        apart = max(float((other[number] - alone).abs().max()) for other in (shared, split))
        assert apart < 1e-4, f"row {number} is {apart} apart"
