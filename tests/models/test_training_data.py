"""The held-out design never reaches training, by code."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worker.training.data import emoji
from worker.training.data.pictures import HELD_OUT, TRAIN, Pictures, Row, is_held_out
from worker.training.errors import DataError, HeldOutLeak


def row(design: str) -> Row:
    package = emoji.npm_name(design)
    return Row(f"{design}/1F34E.webp", design, "1F34E", "red apple", (), ("fruit",), 4, package, "1", "MIT", "0")


def write(path: Path, *rows: Row) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(buffer, "WEBP", lossless=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("manifest.jsonl", "".join(json.dumps(asdict(one)) + "\n" for one in rows))
        for one in rows:
            file.writestr(one.file, buffer.getvalue())


def test_training_pictures_load(tmp_path: Path) -> None:
    write(tmp_path / TRAIN, row("noto"))
    pictures = Pictures.training(tmp_path)
    assert pictures.images.shape == (1, 3, 64, 64)
    assert pictures.rows[0].name == "red apple"


def test_the_held_out_design_stops_training(tmp_path: Path) -> None:
    write(tmp_path / TRAIN, row("noto"), row("openmoji"))
    with pytest.raises(HeldOutLeak):
        Pictures.training(tmp_path)


def test_the_held_out_design_is_no_training_set() -> None:
    assert emoji.HELD_OUT_SET not in emoji.TRAINING_SETS
    assert is_held_out(row("openmoji"))
    assert not is_held_out(row("noto"))


def test_a_missing_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=HELD_OUT):
        Pictures.held_out(tmp_path)


def test_things_are_named_as_people_say_them(tmp_path: Path) -> None:
    apple = {"hexcode": "1F34E", "emoji": "🍎", "label": "Red Apple", "tags": ["fruit", "red apple"], "group": 4}
    key = {"hexcode": "0023-FE0F-20E3", "emoji": "#️⃣", "label": "keycap: #", "tags": [], "group": 8}
    left_out = [
        {"hexcode": "1F44B-1F3FB", "emoji": "👋🏻", "label": "waving hand: light skin tone", "group": 1},
        {"hexcode": "1F1E6", "emoji": "🇦", "label": "regional indicator A"},
        {"hexcode": "1F3FB", "emoji": "🏻", "label": "light tone", "group": 2},
    ]
    tables = {
        "emojibase-data/en/data.json": [apple, *left_out, key],
        "emojibase-data/en/shortcodes/cldr.json": {"1F34E": "red_apple"},
        "emojibase-data/en/shortcodes/github.json": {"1F34E": "apple"},
        "emojibase-data/en/shortcodes/joypixels.json": {"1F34E": ["apple", "malus-domestica", ":("]},
        "emojilib/dist/emoji-en-US.json": {"🍎": ["fruit", "school"], "#⃣": ["symbol"]},
    }
    for name, table in tables.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(table), encoding="utf-8")
    assert emoji.read_things(tmp_path) == {
        "1F34E": emoji.Thing("1F34E", "red apple", ("apple", "malus domestica"), ("fruit", "school"), 4),
        "0023-20E3": emoji.Thing("0023-20E3", "keycap #", (), ("symbol",), 8),
    }
