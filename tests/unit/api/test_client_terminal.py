"""How found pictures look: in a terminal, in a pipe, on a contact sheet."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from api.client.commands.index import valid_name
from api.client.terminal import hits
from api.client.terminal.contact_sheet import TILE_PX, Row, Tile, draw_contact_sheet, draw_grid, squared
from api.client.terminal.hits import Found, draw_hits, renderable_for, show_hits, telling
from tests.support.api import picture

RED, BLUE = (255, 0, 0), (0, 0, 255)
KEYWORDS = ", ".join(f"word {number}" for number in range(60))


def _found(number: int, colour: str | None, **metadata: Any) -> Found:
    hit = {"id": f"img_{number:064x}", "cosine": 0.7, "score": 0.5, "metadata": metadata, "url": "/v1/images/x"}
    return Found(number, hit, picture(colour) if colour else None)


FOUND = [
    _found(1, "red", name="red apple", group="food & drink", keywords=KEYWORDS),
    _found(2, "blue", group="[bold]symbols", year=2000.0),
    _found(3, None),
]


def _console(width: int, terminal: bool) -> Console:
    return Console(
        width=width, force_terminal=terminal, color_system="truecolor", highlight=False, record=True, file=io.StringIO()
    )


def test_what_says_most_comes_first() -> None:
    assert telling({"group": "g", "name": "n", "year": 2000.0, "new": True}) == ("n", "group: g, year: 2000, new: True")
    assert telling({"path": "a/b.png", "folder": "a"}) == ("a/b.png", "folder: a")
    assert telling({}) == ("", "")


def test_a_pipe_gets_a_whole_line_for_each() -> None:
    console = _console(10_000, terminal=False)
    show_hits(FOUND, None, console)
    lines = console.export_text().splitlines()
    assert len(lines) == 4
    assert lines[0].split() == ["rank", "score", "cosine", "what", "metadata", "id"]
    assert all(part in lines[1] for part in ("0.5000", "0.7000", "red apple", KEYWORDS, FOUND[0].hit["id"]))
    assert "group: [bold]symbols, year: 2000" in lines[2]


def test_a_terminal_without_pictures_gets_one_line_each_that_fits() -> None:
    console = _console(80, terminal=True)
    show_hits(FOUND, None, console)
    lines = console.export_text().splitlines()
    assert len(lines) == 4
    assert all(len(line) <= 80 for line in lines)
    assert all(part in lines[1] for part in ("1", "0.5000", "0.7000", "red apple", "group: food", "img_0"))


def test_pictures_stand_in_a_grid_with_what_is_known_of_them() -> None:
    console = _console(45, terminal=True)
    show_hits(FOUND, renderable_for("blocks", console), console)
    text = console.export_text(styles=True)
    assert "38;2;255;0;0" in text, "no red cells"
    assert "38;2;0;0;255" in text, "no blue cells"
    assert "(deleted)" in text


def test_a_square_picture_is_as_high_as_it_is_wide() -> None:
    console = _console(45, terminal=True)
    show_hits(FOUND[:2], renderable_for("blocks", console), console)
    lines = console.export_text().splitlines()
    cells = [line for line in lines if "▀" in line]
    assert len(cells) == hits.CELL_COLUMNS // 2
    assert all(line.count("▀") == 2 * hits.CELL_COLUMNS for line in cells)
    captions = [line for line in lines if "▀" not in line]
    assert "1. 0.50  cos 0.700" in captions[0]
    assert "2. 0.50  cos 0.700" in captions[0]
    assert "red apple" in captions[1]


def test_every_way_to_show_pictures_is_one_the_library_has() -> None:
    console = _console(80, terminal=True)
    shown = {way: renderable_for(way, console) for way in hits.PICTURES}
    assert shown.pop("no") is None
    assert all(callable(way) for way in shown.values())
    assert renderable_for("auto", _console(80, terminal=False)) is None


def test_without_the_library_there_is_a_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "textual_image.renderable", None)
    assert renderable_for("auto", _console(80, terminal=True)) is None
    assert "dreamqueue[pictures]" in capsys.readouterr().err


def test_the_sheet_holds_every_picture_in_its_place(tmp_path: Path) -> None:
    many = [_found(number, "red" if number % 2 else "blue", name=f"n {number}") for number in range(1, 9)]
    draw_hits("a question " * 40, [*many, FOUND[2]], tmp_path / "new" / "sheet.png")
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        pixels = sheet.convert("RGB")
    middles = [(12 + 140 * (place % 6) + TILE_PX // 2, 36 + 174 * (place // 6) + TILE_PX // 2) for place in range(9)]
    assert [pixels.getpixel(middle) for middle in middles] == [*([RED, BLUE] * 4), (255, 255, 255)]
    assert pixels.size == (6 * 140 + 12, 36 + 2 * 174)


def test_no_hits_make_a_sheet_too(tmp_path: Path) -> None:
    draw_grid("nothing", [], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_prompts_have_rows_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture("red"))
    rows = [Row("one", [Tile(tmp_path / "a.png", "x")]), Row("two", [Tile(picture("blue"), "y", "z")])]
    draw_contact_sheet(rows, ["first"], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = sheet.convert("RGB")
    assert [pixels.getpixel((170 + 64, 30 + 174 * row + 64)) for row in (0, 1)] == [RED, BLUE]


def test_pictures_keep_their_shape_on_white() -> None:
    wide = squared(Image.new("RGBA", (40, 10), (255, 0, 0, 255)), 80)
    assert [wide.getpixel(place) for place in ((40, 40), (0, 40), (40, 0), (40, 29), (40, 30))] == [
        RED,
        RED,
        (255, 255, 255),
        (255, 255, 255),
        RED,
    ]
    clear = squared(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), 8)
    assert clear.getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("text", "name"),
    [("My Pictures (2024)", "my-pictures-2024"), ("été", "t"), ("__x", "x"), ("…", ""), ("a" * 90, "a" * 63)],
)
def test_a_folder_names_its_collection(text: str, name: str) -> None:
    assert valid_name(text) == name
