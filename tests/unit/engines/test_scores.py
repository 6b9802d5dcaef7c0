"""What a search's score means: monotone, blended for small collections, invertible."""

from __future__ import annotations

import math

import numpy as np
import pytest

from worker.checkpoints.registry import ModelRegistry
from worker.engines.search.scores import UNMEASURED, Scale, scale_of
from worker.training.evaluation.calibration import fit, log_odds, reliability

SCALE = Scale(logit_scale=24.0, slope=1.28, offset=-8.7, background=9.9)


def test_a_score_grows_with_the_cosine_and_finds_it_again() -> None:
    scores = [SCALE.score(cosine) for cosine in (-1.0, -0.2, 0.3, 0.6, 0.9, 1.0)]
    assert scores == sorted(scores)
    assert 0 <= scores[0] < 1e-9
    assert scores[-1] < 1
    for cosine in (0.3, 0.6, 0.9):
        assert SCALE.least_cosine(SCALE.score(cosine)) == pytest.approx(cosine, abs=1e-9)
    assert SCALE.least_cosine(0) == -math.inf
    assert SCALE.least_cosine(1) == math.inf


def test_the_shipped_model_is_calibrated_for_texts_and_for_pictures() -> None:
    entry = ModelRegistry.load().get("emoji-clip")
    text, image = (scale_of(entry, 23.7, 10.0, 1_000, by_text=by_text) for by_text in (True, False))
    assert (text.slope, text.offset) != (image.slope, image.offset)
    judge = ModelRegistry.load().get("emoji-judge")
    assert judge.calibration is None
    unmeasured = scale_of(judge, 20.0, 5.0, 1_000, by_text=True)
    assert (unmeasured.slope, unmeasured.offset, unmeasured.background) == (*UNMEASURED, 5.0)


def test_few_pictures_say_little_about_what_is_usual() -> None:
    entry = ModelRegistry.load().get("emoji-clip")
    assert entry.calibration is not None
    usual = entry.calibration["text"][2]
    alone = scale_of(entry, 23.7, usual + 5, 1, by_text=True)
    many = scale_of(entry, 23.7, usual + 5, 1_000_000, by_text=True)
    assert many.background == pytest.approx(usual + 5, abs=0.01)
    assert usual < alone.background < usual + 1
    assert alone.score(0.7) > many.score(0.7)


def test_calibration_finds_the_odds_that_made_the_data() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(2, 2, 40_000)
    is_match = rng.random(40_000) < 1 / (1 + np.exp(-(1.5 * x - 4)))
    made = fit(x, is_match, 3.0)
    assert (made.slope, made.offset, made.background) == (
        pytest.approx(1.5, abs=0.06),
        pytest.approx(-4, abs=0.15),
        3.0,
    )
    for said, true, count in reliability(made.scores(x), is_match):
        assert said == pytest.approx(true, abs=0.05), count


def test_log_odds_are_relative_to_the_mean() -> None:
    x, background = log_odds(np.log(np.array([[1.0, 2.0, 3.0]])))
    assert background == pytest.approx(math.log(2))
    assert np.exp(x) == pytest.approx(np.array([[0.5, 1.0, 1.5]]))
