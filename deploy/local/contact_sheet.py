"""A contact sheet: one row of labelled pictures per prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

__all__ = ["Row", "Tile", "draw_contact_sheet"]

TILE_PX = 128  # pictures are enlarged to this, without smoothing
GAP_PX = 12
LABEL_PX = 34
TITLE_PX = 170
INK, PAPER, FAINT = "#1c1c1e", "#ffffff", "#77777c"


@dataclass(frozen=True)
class Tile:
    """One picture and the two lines under it."""

    path: Path
    line: str
    small_line: str = ""


@dataclass(frozen=True)
class Row:
    """One prompt and what came out."""

    title: str
    tiles: list[Tile]


def draw_contact_sheet(rows: list[Row], columns: list[str], path: Path) -> None:
    """Write the sheet as PNG. `columns` head the tiles, from the left."""
    cell_w, cell_h = TILE_PX + GAP_PX, TILE_PX + LABEL_PX + GAP_PX
    head = 30
    sheet = Image.new("RGB", (TITLE_PX + len(columns) * cell_w + GAP_PX, head + len(rows) * cell_h + GAP_PX), PAPER)
    draw = ImageDraw.Draw(sheet)
    normal, small = ImageFont.load_default(14), ImageFont.load_default(11)
    for column, text in enumerate(columns):
        draw.text((TITLE_PX + column * cell_w, 10), text, INK, normal)
    for number, row in enumerate(rows):
        top = head + number * cell_h
        draw.multiline_text((GAP_PX, top + TILE_PX // 2 - 16), _wrapped(row.title, 20), INK, normal)
        for column, tile in enumerate(row.tiles):
            left = TITLE_PX + column * cell_w
            with Image.open(tile.path) as picture:
                sheet.paste(picture.convert("RGB").resize((TILE_PX, TILE_PX), Image.Resampling.NEAREST), (left, top))
            draw.rectangle((left - 1, top - 1, left + TILE_PX, top + TILE_PX), outline="#e2e2e6")
            draw.text((left, top + TILE_PX + 3), tile.line, INK, small)
            draw.text((left, top + TILE_PX + 17), tile.small_line, FAINT, small)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _wrapped(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
