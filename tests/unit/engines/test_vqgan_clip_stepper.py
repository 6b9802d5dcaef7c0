"""The steppers of latents and diffusions: how much they take at once, and what they do where that is too much."""

from __future__ import annotations

import math

import pytest
import torch

from shared.errors import NonFinite, OutOfMemory
from tests.models.conftest import TINY_VQGAN, tiny_clip_config, tiny_tokenizer, tiny_unclip
from worker.engines.generation.candidates import Candidate
from worker.engines.generation.unclip_stepper import DiffusionStepper, Drawn
from worker.engines.generation.vqgan_clip_stepper import LatentRow, LatentStepper
from worker.models.clip.clip import Clip
from worker.models.text import CaptionTokenizer
from worker.models.unclip.diffusion import DiffusionRow
from worker.models.unclip.sampler import prior_denoiser
from worker.models.vqgan.vqgan import VQGAN
from worker.models.vqgan_clip.guidance import CutSettings
from worker.models.vqgan_clip.rows import Pieces, step_alone
from worker.models.vqgan_clip.state import Perceptor, Prompt, Recipe, VqganClipState, start

CUTS = 4
PLENTY = 2**40


@pytest.fixture(scope="module")
def models() -> tuple[VQGAN, Clip]:
    torch.manual_seed(0)
    clip = Clip(tiny_clip_config(), CaptionTokenizer(tiny_tokenizer())).eval().requires_grad_(False)
    return VQGAN(TINY_VQGAN).eval().requires_grad_(False), clip


def run_of(models: tuple[VQGAN, Clip], seed: int = 0) -> VqganClipState:
    vqgan, clip = models
    perceptor = Perceptor(clip, [Prompt(clip.encode_text(["a tree"])[0])])
    recipe = Recipe(cuts=CutSettings(cuts=CUTS, full=1))
    return start(vqgan, [perceptor], seed=seed, steps=5, size=(16, 16), recipe=recipe)


def stepper_of(models: tuple[VQGAN, Clip], budget_bytes: int, max_rows: int = 8) -> LatentStepper:
    return LatentStepper(run_of(models), lambda: budget_bytes, max_rows)


def test_as_many_rows_as_the_memory_holds(models: tuple[VQGAN, Clip]) -> None:
    one = stepper_of(models, PLENTY).footprint.of(CUTS)
    assert stepper_of(models, PLENTY).slots == 8
    assert stepper_of(models, 3 * one + 1).slots == 3
    assert stepper_of(models, one).slots == 1


def test_a_row_that_does_not_fit_comes_in_pieces_or_not_at_all(models: tuple[VQGAN, Clip]) -> None:
    footprint = stepper_of(models, PLENTY).footprint
    for budget, wanted in (
        (footprint.of(CUTS) - 1, Pieces(rows=1, cuts=CUTS - 1)),
        (footprint.of(1), Pieces(rows=1, cuts=1)),
        (footprint.of(1) - 1, Pieces(rows=1, cuts=CUTS - 1, decodes_twice=True)),
    ):
        stepper = stepper_of(models, budget)
        stepper.check()
        assert stepper.slots == 1
        assert stepper.pieces.decodes_twice == wanted.decodes_twice
        assert footprint.of(stepper.pieces.cuts or CUTS, decodes_twice=wanted.decodes_twice) <= budget
    with pytest.raises(OutOfMemory, match=r"takes \d+\.\d MiB at least; 0\.0 MiB are free"):
        stepper_of(models, 10).check()


def test_after_the_device_was_full_it_goes_on_with_less_to_the_same_numbers(models: tuple[VQGAN, Clip]) -> None:
    stepper, rows = stepper_of(models, PLENTY), [LatentRow(run_of(models, seed)) for seed in range(3)]
    assert stepper.slots == 8
    stepper.admit(rows)
    seen = []
    while stepper.shrink():
        seen.append((stepper.pieces.rows, stepper.pieces.cuts, stepper.pieces.decodes_twice))
    assert seen == [(1, None, False), (1, 2, False), (1, 1, False), (1, 1, True)]
    stepper.step()
    stepper.leave(rows)
    assert stepper.slots == 8
    for seed, row in enumerate(rows):
        alone = run_of(models, seed)
        step_alone(alone)
        assert row.state.step_count == 1
        torch.testing.assert_close(row.state.moments[0][0], alone.moments[0][0], rtol=1e-3, atol=1e-6)
    stepper.empty()
    assert stepper.slots == 8
    assert stepper.pieces == Pieces(rows=8)


def test_a_row_can_be_read_while_it_is_inside(models: tuple[VQGAN, Clip]) -> None:
    stepper, row, alone = stepper_of(models, PLENTY), LatentRow(run_of(models)), run_of(models)
    assert stepper.slots
    stepper.admit([row])
    stepper.step()
    step_alone(alone)
    assert torch.equal(row.state.mean_latent, run_of(models).mean_latent)
    stepper.sync(row)
    assert torch.equal(row.state.mean_latent, alone.mean_latent)


def test_a_latent_that_is_no_number_is_one_rows_error(models: tuple[VQGAN, Clip]) -> None:
    stepper, rows = stepper_of(models, PLENTY), [LatentRow(run_of(models, seed)) for seed in range(2)]
    rows[1].state.grids[0].fill_(math.nan)
    assert stepper.slots
    stepper.admit(rows)
    stepper.step()
    assert rows[0].error is None
    assert isinstance(rows[1].error, NonFinite)
    assert "after 1 iterations" in str(rows[1].error)


def test_diffusions_shrink_by_passes_and_name_what_is_no_number() -> None:
    denoiser = prior_denoiser(tiny_unclip())
    conditions = torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    kinds = [DiffusionRow(0, number, 3, 2.0) for number in range(5)]
    budget = [PLENTY]
    stepper = DiffusionStepper(denoiser, conditions[0], lambda: budget[0], 64)
    assert stepper.slots == 64
    budget[0] = 5 * stepper.row_bytes
    assert stepper.slots == 5

    def drawn() -> list[Drawn]:
        states = denoiser.start(kinds, conditions)
        return [Drawn(Candidate(0, place), "a tree", "the prior", state) for place, state in enumerate(states)]

    whole, parts = drawn(), drawn()
    stepper.admit(whole)
    stepper.step()
    stepper.leave(whole)
    parts[3].state.noisy = torch.full_like(parts[3].state.noisy, math.nan)
    stepper.admit(parts)
    assert [stepper.shrink() for _ in range(3)] == [True, True, False]
    stepper.step()
    stepper.leave(parts)
    assert [row.error is not None for row in parts] == [False, False, False, True, False]
    assert "the prior made NaN or infinity at step 1, in candidate 3 of 'a tree'" in str(parts[3].error)
    for one, other in zip(whole[:3], parts[:3], strict=True):
        torch.testing.assert_close(other.state.noisy, one.state.noisy, rtol=1e-4, atol=1e-5)
