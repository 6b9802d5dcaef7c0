"""Captions: forms, keywords, colours that the picture shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from worker.training.data.captions import FORMS, colour_word, has_colour, is_sentence, write_captions
from worker.training.data.pictures import Row


def row(name: str, keywords: tuple[str, ...] = (), aliases: tuple[str, ...] = ()) -> Row:
    return Row("a", "noto", "1", name, aliases, keywords, 4, "p", "1", "MIT", "0")


def painted(*parts: tuple[float, tuple[int, int, int]]) -> Tensor:
    """(3, 64, 64): shares of the height in one colour each, from the top, the rest white."""
    picture = torch.full((3, 64, 64), 255, dtype=torch.uint8)
    top = 0
    for share, colour in parts:
        end = top + round(64 * share)
        picture[:, top:end] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
        top = end
    return picture


RED, GREEN, BLUE = (220, 20, 20), (30, 160, 40), (30, 60, 220)


@pytest.mark.parametrize(
    ("parts", "keywords", "word"),
    [
        (((0.5, RED),), (), "red"),
        (((0.3, RED), (0.4, GREEN)), (), "green"),
        (((0.3, RED), (0.4, GREEN)), ("flower", "red"), "red"),  # named, and a quarter is
        (((0.1, RED), (0.5, GREEN)), ("red",), "green"),  # named, but it is not
        (((0.3, RED), (0.3, GREEN), (0.3, BLUE)), (), None),
        (((0.3, RED), (0.3, GREEN), (0.3, BLUE)), ("red", "green"), None),  # two are named: neither
        ((), ("red",), None),
    ],
)
def test_the_colour_is_what_the_picture_shows(parts: tuple, keywords: tuple[str, ...], word: str | None) -> None:
    assert colour_word(painted(*parts), keywords) == word


def test_captions_use_every_kind_of_word() -> None:
    captions = write_captions(row("apple", ("fruit",), ("malus",)), 400, np.random.default_rng(0), "red", True)
    for part in ("malus", "apple fruit", "red apple", "noto style", "a picture of an apple", "an emoji of a red"):
        assert any(part in caption for caption in captions), part
    assert sum("apple" in caption for caption in captions) > 250
    assert not any(" a apple" in f" {caption}" for caption in captions)


def test_a_named_colour_is_not_doubled() -> None:
    captions = write_captions(row("blue heart"), 200, np.random.default_rng(0), "blue", False)
    assert not any("blue blue" in caption for caption in captions)
    assert all(has_colour(caption) for caption in captions)


def test_sentences_stay_as_they_are() -> None:
    text = "a man riding a wave on a surfboard"
    assert is_sentence(text)
    assert not is_sentence("automobile")
    assert set(write_captions(row(text), 50, np.random.default_rng(0), "red", True)) == {text}
    assert len(FORMS) > 10
