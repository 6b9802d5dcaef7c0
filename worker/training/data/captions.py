"""Captions for training: names, other names, keywords, sentence forms, colour words read off the pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from worker.models.text import END, PAD, START, CaptionTokenizer
from worker.training.data.pictures import Row

FORMS = (
    "{}", "{}", "{}", "a {}", "the {}", "a picture of {}", "a picture of a {}", "an image of a {}", "a drawing of a {}",
    "{} emoji", "an emoji of a {}", "an icon of a {}", "a cartoon {}", "an illustration of a {}", "a small {}",
)  # fmt: skip
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")
STYLES = {
    "noto": "noto style",
    "twemoji": "twemoji style",
    "fluent-emoji": "3d style",
    "fluent-emoji-flat": "flat style",
    "emojione": "emojione style",
    "noto-v1": "old noto style",
    "fxemoji": "firefox style",
}
_SENTENCE = re.compile(r"(a|an|the|this|that|these|some|my|his|her|their|several|many) |(\S+ ){9}")
_HUES = ((15, "red"), (42, "orange"), (68, "yellow"), (165, "green"), (255, "blue"), (290, "purple"), (345, "pink"))


def colour_word(picture: Tensor, keywords: Sequence[str] = ()) -> str | None:
    """The one colour that covers most of a picture (3, H, W) uint8 besides its white ground, or None.

    A colour that a keyword names needs a quarter of the picture only: a rose is red, whatever its leaves.
    """
    pixels = picture.permute(1, 2, 0).reshape(-1, 3).numpy()[::3]
    inked = pixels[(pixels < 245).any(1)] / 255.0
    if len(inked) < 60:
        return None
    shares = np.bincount(_colour_numbers(inked), minlength=len(COLOURS)) / len(inked)
    named = [word for word in ("grey" if word == "gray" else word for word in keywords) if word in COLOURS[:-3]]
    best = int(shares.argmax())
    if len(named) == 1 and shares[COLOURS.index(named[0])] > 0.25:
        return named[0]
    sure = shares[best] > 0.55 and COLOURS[best] != "white"
    return COLOURS[best] if sure else None


def _colour_numbers(pixels: np.ndarray) -> np.ndarray:
    """Places in COLOURS (N,) of pixels (N, 3) in [0, 1], by hue, lightness and chroma."""
    high, low = pixels.max(1), pixels.min(1)
    chroma, light = high - low, (high + low) / 2
    safe = np.where(chroma == 0, 1.0, chroma)
    red, green, blue = pixels.T
    sector = np.where(high == red, (green - blue) / safe % 6, (blue - red) / safe + 2)
    hue = 60 * np.where((high == blue) & (high != red), (red - green) / safe + 4, sector)
    limits, words = zip(*_HUES, strict=True)
    numbers = np.array([COLOURS.index(word) for word in (*words, "red")])[np.searchsorted(limits, hue, side="right")]
    warm = np.isin(numbers, [COLOURS.index(word) for word in ("orange", "red", "yellow")])
    strength = chroma / np.maximum(1e-6, 1 - np.abs(2 * light - 1))
    numbers = np.where(warm & (light < 0.42) & (strength < 0.75), COLOURS.index("brown"), numbers)
    numbers = np.where((numbers == COLOURS.index("red")) & (light > 0.72), COLOURS.index("pink"), numbers)
    pale = np.where(light > 0.88, COLOURS.index("white"), COLOURS.index("grey"))
    numbers = np.where(chroma < 0.12, pale, numbers)
    return np.where(light < 0.16, COLOURS.index("black"), numbers)


def has_colour(text: str) -> bool:
    """True if a caption names a colour, so that recolouring would make it false."""
    return any(word in COLOURS or word in ("gray", "golden", "rainbow") for word in text.split())


def is_sentence(text: str) -> bool:
    """True for a caption that says it all, as in sets of one's own: it goes into no form and takes no colour."""
    return _SENTENCE.match(text) is not None


def write_captions(row: Row, count: int, rng: np.random.Generator, colour: str | None, styles: bool) -> list[str]:
    """`count` captions of one picture: half of them its name, the rest other names, keywords, colour, style."""
    return [_caption(row, rng, colour, styles) for _ in range(count)]


def _caption(row: Row, rng: np.random.Generator, colour: str | None, styles: bool) -> str:
    core = _core(row, rng)
    if is_sentence(core):
        return core
    if colour and not has_colour(core) and rng.random() < 0.3:
        core = f"{colour} {core}"
    text = str(rng.choice(FORMS)).format(core)
    if styles and rng.random() < 0.2:
        text = f"{text}, {STYLES.get(row.design, row.design)}"
    return re.sub(r"\ba (?=[aeio])", "an ", text)


def _core(row: Row, rng: np.random.Generator) -> str:
    """What a caption calls the thing: its name most often, else another name, a keyword, or name and keyword."""
    draw = rng.random()
    if draw < 0.22 and row.aliases:
        return str(rng.choice(row.aliases))
    if draw < 0.30 and row.keywords:
        return str(rng.choice(row.keywords))
    if draw < 0.38 and row.keywords and not is_sentence(row.name):
        return f"{row.name} {rng.choice(row.keywords)}"
    return row.name


def train_tokenizer(rows: Sequence[Row], size: int = 4096) -> Tokenizer:
    """A byte-level BPE of `size` entries at most on all captions' words; lower-cases, 0 is padding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2,
        special_tokens=[PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [*COLOURS, *FORMS, *STYLES.values()] * 20
    for row in rows:
        texts += [row.name] * 3 + [*row.aliases, *row.keywords]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([START, END])
    return tokenizer


def caption_table(captions: Sequence[Sequence[str]], tokenizer: CaptionTokenizer, length: int, framed: bool) -> Tensor:
    """Ids (N, K, length) int16 of K captions for each of N pictures or things."""
    flat = [text for group in captions for text in group]
    ids = tokenizer.encode(flat, length, framed).ids.to(torch.int16)
    return ids.view(len(captions), -1, length)
