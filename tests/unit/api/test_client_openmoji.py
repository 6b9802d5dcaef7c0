"""The pictures that ship with the embedded stack, as a user gets them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from pydantic import TypeAdapter

from shared.specs.archives import read_table
from shared.specs.clip import Metadata
from worker.training.data import emoji, openmoji

LARGEST_BYTES = 3_000_000  # it is in every checkout and every wheel


@pytest.fixture(scope="module")
def shipped() -> Iterator[zipfile.ZipFile]:
    path = resources.files("deploy") / "pictures" / "openmoji.zip"
    with resources.as_file(path) as file, zipfile.ZipFile(file) as archive:
        yield archive


@pytest.fixture(scope="module")
def rows(shipped: zipfile.ZipFile) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(shipped.read("metadata.csv").decode())))


def test_every_picture_opens_and_differs(shipped: zipfile.ZipFile) -> None:
    names = [name for name in shipped.namelist() if name.endswith(".webp")]
    assert sorted([*names, "LICENSE.txt", "metadata.csv"]) == sorted(shipped.namelist())
    digests = set()
    for name in names:
        data = shipped.read(name)
        digests.add(hashlib.sha256(data).digest())
        with Image.open(io.BytesIO(data)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
            assert picture.getexif()[ExifTags.Base.Copyright] == "OpenMoji, CC BY-SA 4.0"
        assert pixels.shape == (64, 64, 3)
        assert pixels.std() > 1, f"{name} shows nothing"
        assert pixels[0, 0].mean() > 200, f"{name} is not on white"
    assert len(digests) == len(names) == 1_652  # as the model card counts the held-out design
    assert sum(entry.compress_size for entry in shipped.infolist()) < LARGEST_BYTES


def test_every_row_names_a_picture_and_is_valid_metadata(shipped: zipfile.ZipFile, rows: list[dict[str, str]]) -> None:
    read, errors = read_table("metadata.csv", shipped.read("metadata.csv"))  # as the server does
    assert not errors
    assert {type(value) for metadata in read.values() for value in metadata.values()} == {str}
    check = TypeAdapter(Metadata)
    assert {row["file"] for row in rows} == {name for name in shipped.namelist() if name.endswith(".webp")}
    for row in rows:
        assert tuple(row) == openmoji.FIELDS
        assert all(check.validate_python(dict(row)).values()), row
        for value in row.values():  # a reader that guesses types must find only texts
            with pytest.raises(ValueError):
                json.loads(value)
    by_code = {row["code"]: row for row in rows}
    assert len(by_code) == len(rows)
    apple = by_code["U+1F34E"]
    assert (apple["name"], apple["group"], apple["file"]) == ("red apple", "food & drink", "red-apple.webp")
    assert "fruit" in apple["keywords"].split(", ")
    assert len({row["group"] for row in rows}) == 9


def test_it_says_whose_the_pictures_are(shipped: zipfile.ZipFile) -> None:
    note = shipped.read("LICENSE.txt").decode()
    for part in ("OpenMoji", "CC BY-SA 4.0", "creativecommons.org/licenses/by-sa/4.0", "Changed:", "MIT License"):
        assert part in note
    assert {entry.date_time for entry in shipped.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_same_packages_make_the_same_archive(tmp_path: Path) -> None:
    _packages(tmp_path / "npm")
    first, second = tmp_path / "1.zip", tmp_path / "2.zip"
    assert openmoji.build_archive(tmp_path, first) == openmoji.build_archive(tmp_path, second) == 2
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        table = list(csv.DictReader(io.StringIO(archive.read("metadata.csv").decode())))
        assert [row["file"] for row in table] == ["dot.webp", "dot-1f535.webp"]
        assert len(table[0]["keywords"]) <= openmoji.LONGEST_VALUE


def _packages(base: Path) -> None:
    """Two drawings that look alike and are called alike, and one of nothing, in the packages' own form."""
    many = ["dot"] + [f"word {number}" for number in range(400)]
    data = [
        {"label": "dot", "hexcode": code, "emoji": chr(int(code, 16)), "group": 8, "tags": many}
        for code in ("1F534", "1F535", "1F536")
    ]
    circle = '<circle cx="8" cy="8" r="6" fill="red"/>'
    icons = {"red-dot": {"body": circle}, "blue-dot": {"body": circle}, "no-dot": {"body": ""}}
    info = {"license": {"title": "CC", "spdx": "CC", "url": "u"}, "author": {"name": "a", "url": "u"}}
    files = {
        "emojibase-data/package.json": {"version": "1"},
        "emojibase-data/en/data.json": data,
        "emojibase-data/en/messages.json": {"groups": [{"order": 8, "message": "symbols"}]},
        "emojibase-data/en/shortcodes/cldr.json": {},
        "emojibase-data/en/shortcodes/github.json": {},
        "emojibase-data/en/shortcodes/joypixels.json": {},
        "emojilib/package.json": {"version": "1"},
        "emojilib/dist/emoji-en-US.json": {},
        f"{emoji.HELD_OUT_SET}/package.json": {"version": "1"},
        f"{emoji.HELD_OUT_SET}/info.json": info,
        f"{emoji.HELD_OUT_SET}/icons.json": {"icons": icons},
        f"{emoji.HELD_OUT_SET}/chars.json": {"1f534": "red-dot", "1f535": "blue-dot", "1f536": "no-dot"},
    }
    for name, content in files.items():
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    for name in emoji.WORD_PACKAGES:
        (base / name / "LICENSE").write_text("MIT License\n")
