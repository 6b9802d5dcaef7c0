"""How found pictures look in a terminal: the pictures themselves where it can show them, else a table."""

from __future__ import annotations

import functools
import io
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import click
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.client.client import DreamqueueClient
from api.client.errors import ApiError

__all__ = [
    "PICTURES",
    "Found",
    "draw_hits",
    "fetched",
    "found_in",
    "pictures_option",
    "renderable_for",
    "show_hits",
    "telling",
]

PICTURES = ("auto", "kitty", "sixel", "blocks", "no")
TITLES = ("name", "title", "caption", "prompt", "label", "path")  # fields that say most, best first
CELL_COLUMNS = 18  # of a terminal, for one picture: 9 lines high where letters are twice as high as wide
AT_ONCE = 8  # downloads
Renderable = Callable[..., RenderableType]
HINT = "pictures in the terminal: pip install 'dreamqueue[pictures]'"
RENDERABLES = {"auto": "Image", "kitty": "TGPImage", "sixel": "SixelImage", "blocks": "HalfcellImage"}


def pictures_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --pictures and --no-pictures; the command gets `pictures`, one of PICTURES."""

    @click.option(
        "--pictures",
        type=click.Choice(PICTURES),
        default="auto",
        show_default=True,
        help="How to show pictures: as the terminal can (kitty's protocol, sixel, half blocks), or not.",
    )
    @click.option("--no-pictures", is_flag=True, help="A line per picture.")
    @functools.wraps(command)
    def run(*args: Any, pictures: str, no_pictures: bool, **options: Any) -> Any:
        return command(*args, pictures="no" if no_pictures else pictures, **options)

    return run


@dataclass(frozen=True)
class Found:
    """A hit and its bytes; None where they were deleted meanwhile."""

    rank: int
    hit: dict[str, Any]
    picture: bytes | None = None

    @property
    def numbers(self) -> str:
        """Its score and cosine."""
        return f"{self.hit['score']:.2f}  cos {self.hit['cosine']:.3f}"


def telling(metadata: dict[str, Any]) -> tuple[str, str]:
    """What says most about a picture, and the rest in a line."""
    title = next((field for field in TITLES if metadata.get(field)), "")
    rest = {field: value for field, value in metadata.items() if field != title}
    return (
        str(metadata[title]) if title else "",
        ", ".join(
            f"{field}: {value:g}" if isinstance(value, float) else f"{field}: {value}" for field, value in rest.items()
        ),
    )


def found_in(hits: Sequence[dict[str, Any]]) -> list[Found]:
    """The hits alone."""
    return [Found(rank, hit) for rank, hit in enumerate(hits, 1)]


def fetched(client: DreamqueueClient, hits: Sequence[dict[str, Any]]) -> list[Found]:
    """The hits with their bytes."""

    def one(numbered: tuple[int, dict[str, Any]]) -> Found:
        rank, hit = numbered
        try:
            return Found(rank, hit, client.download(hit["url"]))
        except ApiError as error:
            if error.status not in (404, 410):
                raise
            return Found(rank, hit)

    with ThreadPoolExecutor(AT_ONCE) as downloads:
        return list(downloads.map(one, enumerate(hits, 1)))


def renderable_for(pictures: str, console: Console) -> Renderable | None:
    """What shows a picture on this terminal; None where nothing does, or `pictures` is no. The library asks the
    terminal what it can as it is imported, and reads the answer from the keyboard: without one, no pictures."""
    if pictures == "no" or (pictures == "auto" and not console.is_terminal):
        return None
    if _is_terminal(sys.__stdout__) and not _is_terminal(sys.__stdin__):
        if pictures != "auto":
            click.echo("no pictures: the terminal's answer cannot be read, stdin is not the keyboard", err=True)
        return None
    logging.getLogger("textual_image").setLevel(logging.ERROR)  # a terminal that does not answer is none of its news
    try:
        import textual_image.renderable as renderables
    except ModuleNotFoundError:
        click.echo(HINT, err=True)
        return None
    chosen: Renderable = getattr(renderables, RENDERABLES[pictures])
    return chosen


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def show_hits(found: Sequence[Found], renderable: Renderable | None, console: Console) -> None:
    """A grid of pictures; without a way to show them, a table."""
    if renderable is None:
        _show_table(found, console)
        return
    across = max(1, console.width // (CELL_COLUMNS + 2))
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(across):
        grid.add_column(width=CELL_COLUMNS)
    for start in range(0, len(found), across):
        if start:
            grid.add_row("")
        grid.add_row(*(_cell(one, renderable) for one in found[start : start + across]))
    console.print(grid)


def draw_hits(title: str, found: Iterable[Found], path: Path) -> None:
    """The contact sheet. Needs Pillow; raises ModuleNotFoundError."""
    from api.client.terminal.contact_sheet import Tile, draw_grid

    tiles = [
        Tile(
            one.picture,
            f"{one.rank}.  {one.numbers}",
            next((part for part in telling(one.hit["metadata"]) if part), ""),
        )
        for one in found
    ]
    draw_grid(title, tiles, path)


def _cell(one: Found, renderable: Renderable) -> RenderableType:
    title, rest = telling(one.hit["metadata"])
    lines = [
        Text(f"{one.rank}. {one.numbers}", overflow="ellipsis", no_wrap=True),
        Text(title, style="bold", overflow="ellipsis", no_wrap=True),
        Text(rest, style="dim", overflow="ellipsis", no_wrap=True),
    ]
    picture = Text("(deleted)", style="dim") if one.picture is None else _picture(one.picture, renderable)
    return Group(picture, *(line for line in lines if line.plain))


def _picture(data: bytes, renderable: Renderable) -> RenderableType:
    from PIL import Image

    from api.client.terminal.contact_sheet import squared

    with Image.open(io.BytesIO(data)) as opened:
        return renderable(squared(opened), width=CELL_COLUMNS, height="auto")


def _show_table(found: Sequence[Found], console: Console) -> None:
    """A line each. A terminal cuts what is too long; a pipe gets all of it."""
    cut: dict[str, Any] = {"no_wrap": True, "overflow": "ellipsis"} if console.is_terminal else {}
    rest_width = max(12, console.width - 62) if console.is_terminal else None
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rank", justify="right")
    table.add_column("score")
    table.add_column("cosine")
    table.add_column("what", max_width=26 if console.is_terminal else None, **cut)
    table.add_column("metadata", max_width=rest_width, **cut)
    table.add_column("id", max_width=14 if console.is_terminal else None, **cut)
    for one in found:
        title, rest = telling(one.hit["metadata"])
        numbers = (str(one.rank), f"{one.hit['score']:.4f}", f"{one.hit['cosine']:.4f}")
        table.add_row(*numbers, Text(title or "-"), Text(rest or "-"), Text(one.hit["id"]))
    console.print(table, crop=False)
