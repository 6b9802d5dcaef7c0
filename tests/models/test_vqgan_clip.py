"""VQGAN+CLIP runs that share their steps: each goes as if it were alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pytest
import torch
from torch import Tensor

from tests.models.conftest import tiny_clip_config
from worker.models.clip.clip import Clip
from worker.models.errors import ShapeError
from worker.models.noise import key_of
from worker.models.text import CaptionTokenizer
from worker.models.vqgan.vqgan import VQGAN
from worker.models.vqgan_clip.footprint import footprint_of, kept_bytes
from worker.models.vqgan_clip.guidance import CutSettings, add_noise
from worker.models.vqgan_clip.latent import picture_of
from worker.models.vqgan_clip.rows import LatentRows, Pieces
from worker.models.vqgan_clip.state import Perceptor, Prompt, Recipe, VqganClipState, start

DETERMINISTIC = Pieces(rows=2, is_padded=True)
STEPS = 4
CUTS = CutSettings(cuts=3, full=1)
PROMPTS = ("a red apple", "a tree", "a blue heart")
Saved = dict[str, Tensor]


class Runs:
    """Runs that differ in all that may differ."""

    def __init__(self, vqgan: VQGAN, clips: Sequence[Clip]) -> None:
        self.vqgan, self.clips = vqgan, clips
        self.vectors = [clip.encode_text(PROMPTS) for clip in clips]

    def one(self, number: int) -> VqganClipState:
        perceptors = []
        for clip, vectors in zip(self.clips, self.vectors, strict=True):
            weights = (1.0, -0.5, 0.25)[: 1 + number % 3]
            prompts = [Prompt(vectors[(number + place) % 3], weight) for place, weight in enumerate(weights)]
            perceptors.append(Perceptor(clip, prompts))
        recipe = Recipe(
            cuts=CUTS, near_start=0.5 * (number % 2), learning_rate=0.1 + number / 100, background=float(number % 4)
        )
        return start(self.vqgan, perceptors, seed=number, steps=STEPS + number % 5, size=(16, 16), recipe=recipe)

    def some(self, numbers: Iterable[int]) -> dict[int, VqganClipState]:
        return {number: self.one(number) for number in numbers}

    def alone(self, number: int, pieces: Pieces | None = DETERMINISTIC, steps: int = STEPS) -> Saved:
        return together({number: self.one(number)}, pieces, steps)[number]


@pytest.fixture
def runs(vqgan: VQGAN, clip: Clip) -> Runs:
    return Runs(vqgan, [clip])


def together(
    states: dict[int, VqganClipState], pieces: Pieces | None = DETERMINISTIC, steps: int = STEPS
) -> dict[int, Saved]:
    rows = LatentRows(next(iter(states.values())))
    rows.push(list(states.values()))
    for _ in range(steps):
        assert all(rows.step(pieces).are_finite)
    rows.pull(list(states.values()))
    return {number: state.snapshot() for number, state in states.items()}


def gap(saved: Saved, other: Saved) -> float:
    assert saved.keys() == other.keys()
    return max(float((saved[name].double() - other[name].double()).abs().max()) for name in saved)


@pytest.mark.parametrize("count", [2, 7, 16])
def test_a_run_is_the_same_to_the_bit_in_any_company_of_one_shape(runs: Runs, count: int) -> None:
    numbers = list(range(count))
    shared = together(runs.some(reversed(numbers)))
    for number in (0, count // 2, count - 1):
        assert gap(shared[number], runs.alone(number)) == 0.0
    assert gap(shared[0], shared[1]) > 0.01


def test_late_or_gone_for_a_while_or_resumed_it_is_the_same_to_the_bit(runs: Runs) -> None:
    states = runs.some(range(4))
    first, late, away, moved = states.values()
    rows = LatentRows(first)
    rows.push([first, away, moved])
    rows.step(DETERMINISTIC)
    rows.pull([moved])
    resumed = runs.one(3)
    resumed.restore(moved.snapshot())
    rows.push([late])
    rows.pull([away])
    rows.step(DETERMINISTIC)
    rows.push([away, resumed])
    for state, steps in ((first, 2), (late, 1), (away, 2), (resumed, 3)):
        while state.step_count < STEPS:
            rows.step(DETERMINISTIC)
        rows.sync(state)
        assert gap(state.snapshot(), runs.alone(states_number(states, state), steps=state.step_count)) == 0.0, steps


def states_number(states: dict[int, VqganClipState], state: VqganClipState) -> int:
    return next((number for number, known in states.items() if known is state), 3)


def test_in_any_shape_only_last_bits_differ_at_first(runs: Runs) -> None:
    """One step: afterwards Adam divides small gradients by their own size, which makes much of little."""
    shared = together(runs.some(range(7)), None, 1)
    for number in range(7):
        alone = runs.alone(number, None, 1)
        for name in ("moment1.0", "moment1.1", "moment1.2"):
            scale = float(alone[name].abs().max())
            apart = float((shared[number][name] - alone[name]).abs().max()) / scale
            assert apart < 1e-3, f"{name} of run {number} is {apart:.1e} of its largest number apart"


@pytest.mark.parametrize(
    "pieces", [Pieces(rows=1), Pieces(cuts=1), Pieces(cuts=2, decodes_twice=True), Pieces(rows=3, decodes_twice=True)]
)
def test_in_pieces_the_gradients_are_the_same(
    vqgan: VQGAN, clip: Clip, tokenizer: CaptionTokenizer, pieces: Pieces
) -> None:
    other = Clip(tiny_clip_config(), tokenizer).eval().requires_grad_(False)
    runs = Runs(vqgan, [clip, other])
    whole, parts = together(runs.some(range(4)), None, 1), together(runs.some(range(4)), pieces, 1)
    for number in range(4):
        for name in ("moment1.0", "moment1.2"):
            torch.testing.assert_close(parts[number][name], whole[number][name], rtol=1e-3, atol=1e-6)


def test_what_is_no_number_stays_in_its_row(runs: Runs) -> None:
    states = runs.some(range(3))
    states[1].grids[0][0, 0, 0, 0] = math.nan
    rows = LatentRows(states[0])
    rows.push(list(states.values()))
    told = [rows.step(DETERMINISTIC) for _ in range(STEPS)]
    assert [losses.are_finite for losses in told] == [[True, False, True]] * STEPS
    rows.pull(list(states.values()))
    for number in (0, 2):
        assert gap(states[number].snapshot(), runs.alone(number)) == 0.0


def test_a_step_that_fails_moved_nothing(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    states = runs.some(range(3))
    rows = LatentRows(states[0])
    rows.push(list(states.values()))
    passes = LatentRows._pass
    taken: list[int] = []

    def full(*arguments: object) -> object:
        taken.append(1)
        if len(taken) == 2:
            raise RuntimeError("full")
        return passes(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(LatentRows, "_pass", full)
    with pytest.raises(RuntimeError, match="full"):
        rows.step(DETERMINISTIC)
    for _ in range(STEPS):
        rows.step(DETERMINISTIC)
    rows.pull(list(states.values()))
    assert all(gap(state.snapshot(), runs.alone(number)) == 0.0 for number, state in states.items())


def test_another_recipe_does_not_come_in(runs: Runs, vqgan: VQGAN, clip: Clip) -> None:
    rows = LatentRows(runs.one(0))
    other = start(vqgan, [Perceptor(clip, [Prompt(runs.vectors[0][0])])], seed=0, steps=2, size=(16, 16))
    with pytest.raises(ShapeError):
        rows.push([other])


def test_grain_in_parts_is_the_grain_at_once() -> None:
    settings, keys = CutSettings(cuts=5, full=0), torch.stack([key_of(1), key_of(2)])
    whole = add_noise(torch.zeros(10, 3, 4, 4), keys, settings).view(2, 5, 3, 4, 4)
    parts = [
        add_noise(torch.zeros(2 * n, 3, 4, 4), keys, settings, first).view(2, n, 3, 4, 4)
        for first, n in ((0, 2), (2, 3))
    ]
    assert torch.equal(torch.cat(parts, 1), whole)
    assert float(whole.std()) > 0.05


def test_the_footprint_of_a_large_run_is_known_from_small_ones(runs: Runs) -> None:
    large = start(
        runs.vqgan,
        runs.one(0).perceptors,
        seed=0,
        steps=1,
        size=(64, 48),
        recipe=Recipe(cuts=CutSettings(cuts=6, full=0)),
    )
    said = footprint_of(large)
    latent = large.first.clone().requires_grad_()
    counted = kept_bytes(lambda: picture_of(runs.vqgan, latent, True))
    assert said.decode == pytest.approx(counted, rel=0.2)
    assert said.of(6) > said.of(1) > said.of(1, decodes_twice=True)
