"""Contact sheets and training curves as pictures, drawn with Pillow."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from worker.training.errors import DataError
from worker.training.loop import CURVES

LINE = 15  # pixels a label's line takes
INK, PALE = (30, 30, 30), (215, 215, 215)
PENS = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14))
PANEL = (340, 220)
MARGIN = (46, 20, 8)  # left, top, right of a panel's plot; the legend lies below it


def contact_sheet(images: Tensor, labels: Sequence[str], columns: int, scale: int = 2) -> Image.Image:
    """Pictures (N, 3, H, W) in [0, 1], `columns` in a row, each over its label, whose lines part at newlines."""
    height, width = images.shape[2] * scale, images.shape[3] * scale
    below = LINE * max(label.count("\n") + 1 for label in labels)
    rows = math.ceil(len(images) / columns)
    page = Image.new("RGB", (columns * (width + 6), rows * (height + below + 4)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        left, top = index % columns * (width + 6), index // columns * (height + below + 4)
        page.paste(to_picture(image).resize((width, height), Image.Resampling.NEAREST), (left + 3, top))
        for line, text in enumerate(label.split("\n")):
            while text and draw.textlength(text, font) > width + 4:
                text = text[:-1]
            draw.text((left + 3, top + height + line * LINE), text, INK, font)
    return page


def to_picture(image: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1]."""
    return Image.fromarray((image.permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


def save_small(page: Image.Image, path: Path) -> None:
    """As WebP of a quality at which 64-pixel pictures still look as they are; as PNG if the name ends so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        page.quantize(64).save(path, optimize=True)
    else:
        page.save(path, quality=85, method=6)


@dataclass(slots=True)
class Panel:
    """Lines over minutes of training."""

    title: str
    lines: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, name: str, minute: float, value: float) -> None:
        """One point more."""
        self.lines.setdefault(name, []).append((minute, value))


def read_curves(folders: Sequence[Path]) -> list[Panel]:
    """A panel per run and unit: percent, decibels, losses. DataError where a run has no curves."""
    panels: list[Panel] = []
    for folder in folders:
        own: dict[str, Panel] = {}
        try:
            rows = [json.loads(line) for line in (folder / CURVES).read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise DataError(f"no curves of a run in {folder}: {error}") from error
        for row in rows:
            for name, value in row.items():
                unit = _unit(name)
                if unit:
                    panel = own.setdefault(unit, Panel(f"{folder.name}, {unit}"))
                    panel.add(name, row["seconds"] / 60, value)
        panels += own.values()
    return panels


def _unit(name: str) -> str:
    if name.endswith(("_top1", "_top5", "_at_10", "_usage")):
        return "%"
    if name.endswith("_db"):
        return "dB"
    return "loss" if name == "l1" or "loss" in name else ""


def draw_curves(panels: Sequence[Panel], columns: int = 3) -> Image.Image:
    """All panels on one page."""
    rows = math.ceil(len(panels) / columns)
    page = Image.new("RGB", (min(columns, len(panels)) * PANEL[0], rows * PANEL[1]), "white")
    for index, panel in enumerate(panels):
        page.paste(_draw_panel(panel), (index % columns * PANEL[0], index // columns * PANEL[1]))
    return page


def _draw_panel(panel: Panel) -> Image.Image:
    picture = Image.new("RGB", PANEL, "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    left, top, right = MARGIN[0], MARGIN[1], PANEL[0] - MARGIN[2]
    bottom = PANEL[1] - 4 - LINE * math.ceil(len(panel.lines) / 2)
    points = [point for line in panel.lines.values() for point in line]
    end = max(x for x, _ in points) or 1.0
    low, high = _bounds([y for _, y in points])
    draw.text((left, 3), f"{panel.title} over {end:.0f} minutes", INK, font)
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - top)
        draw.line((left, y, right, y), PALE)
        draw.text((4, y - 6), f"{low + share * (high - low):.4g}", INK, font)
    for index, (name, line) in enumerate(panel.lines.items()):
        pen = PENS[index % len(PENS)]
        wide, tall = (right - left) / end, (bottom - top) / (high - low)
        places = [(left + x * wide, bottom - (min(y, high) - low) * tall) for x, y in line]
        draw.line(places, pen, 2) if len(places) > 1 else draw.point(places, pen)
        draw.text((left + index % 2 * 150, bottom + 3 + LINE * (index // 2)), f"{name} {line[-1][1]:.3g}", pen, font)
    return picture


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """The values' range without the first steps' extremes, never empty."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[min(len(ordered) - 1, int(0.98 * len(ordered)))]
    return (low, high) if high > low else (low, low + 1.0)


def labelled(names: Sequence[str], numbers: bool, words: bool) -> list[str]:
    """Labels of a sheet: `7`, `pizza`, or `7 pizza`."""
    parts = ([str(index)] * numbers + [name] * words for index, name in enumerate(names, 1))
    return [" ".join(part) for part in parts]
