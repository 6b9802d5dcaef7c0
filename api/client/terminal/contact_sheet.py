"""Contact sheets: a row of labelled pictures per prompt, or one grid of what a search found. Needs Pillow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

__all__ = ["Row", "Tile", "draw_contact_sheet", "draw_grid", "squared"]

TILE_PX = 128  # pictures are fitted into a square of this; small ones are enlarged without smoothing
GAP_PX = 12
LABEL_PX = 34
TITLE_PX = 170
HEAD_PX = 30
MAX_COLUMNS = 6
INK, PAPER, FAINT, EDGE = "#1c1c1e", "#ffffff", "#77777c", "#e2e2e6"
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Tile:
    """One picture, as a file or its bytes, and the two lines under it. Without a picture its square stays empty."""

    picture: Path | bytes | None
    line: str
    small_line: str = ""


@dataclass(frozen=True)
class Row:
    """One prompt and what came out."""

    title: str
    tiles: list[Tile]


def draw_contact_sheet(rows: list[Row], columns: list[str], path: Path) -> None:
    """Write a sheet of several prompts as PNG. `columns` head the tiles, from the left."""
    cell_w, cell_h = TILE_PX + GAP_PX, TILE_PX + LABEL_PX + GAP_PX
    size = (TITLE_PX + len(columns) * cell_w + GAP_PX, HEAD_PX + len(rows) * cell_h + GAP_PX)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for column, text in enumerate(columns):
        draw.text((TITLE_PX + column * cell_w, 10), text, INK, font)
    for number, row in enumerate(rows):
        top = HEAD_PX + number * cell_h
        draw.multiline_text((GAP_PX, top + TILE_PX // 2 - 16), _wrapped(row.title, 20), INK, font)
        for column, tile in enumerate(row.tiles):
            _draw_tile(sheet, draw, (TITLE_PX + column * cell_w, top), tile)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")


def draw_grid(title: str, tiles: Sequence[Tile], path: Path) -> None:
    """Write a sheet of one question's answers as PNG, in reading order."""
    columns = max(1, min(MAX_COLUMNS, len(tiles)))
    rows = -(-len(tiles) // columns)
    cell_w, cell_h = TILE_PX + GAP_PX, TILE_PX + LABEL_PX + GAP_PX
    width = max(columns, 3) * cell_w + GAP_PX
    sheet = Image.new("RGB", (width, HEAD_PX + 6 + rows * cell_h), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    draw.text((GAP_PX, 10), _fitted(draw, title, font, width - 2 * GAP_PX), INK, font)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        _draw_tile(sheet, draw, (GAP_PX + column * cell_w, HEAD_PX + 6 + row * cell_h), tile)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")


def _draw_tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], tile: Tile) -> None:
    left, top = corner
    if tile.picture is not None:
        source = io.BytesIO(tile.picture) if isinstance(tile.picture, bytes) else tile.picture
        with Image.open(source) as opened:
            sheet.paste(squared(opened), corner)
    draw.rectangle((left - 1, top - 1, left + TILE_PX, top + TILE_PX), outline=EDGE)
    font = ImageFont.load_default(11)
    for text, offset, colour in ((tile.line, 3, INK), (tile.small_line, 17, FAINT)):
        draw.text((left, top + TILE_PX + offset), _fitted(draw, text, font, TILE_PX), colour, font)


def squared(picture: Image.Image, side: int = TILE_PX) -> Image.Image:
    """A picture in the middle of a white square, its shape kept; a small one is enlarged without smoothing."""
    picture = _on_paper(picture)
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    square = Image.new("RGB", (side, side), PAPER)
    square.paste(picture, ((side - size[0]) // 2, (side - size[1]) // 2))
    return square


def _on_paper(picture: Image.Image) -> Image.Image:
    """In RGB, what is transparent white."""
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        shown = picture.convert("RGBA")
        paper = Image.new("RGBA", shown.size, PAPER)
        return Image.alpha_composite(paper, shown).convert("RGB")
    return picture.convert("RGB")


def _fitted(draw: ImageDraw.ImageDraw, text: str, font: Font, width: int) -> str:
    """The text, cut where it would run into its neighbour."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"{text}...", font) > width:
        text = text[:-1]
    return f"{text.rstrip()}..."


def _wrapped(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
