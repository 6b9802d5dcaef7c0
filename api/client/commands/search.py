"""search: words and pictures in, pictures out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from api.client.client import DreamqueueClient
from api.client.commands.connection import connected, json_option
from api.client.query import Query, QueryError, parse_condition, parse_query
from api.client.terminal.hits import draw_hits, fetched, found_in, pictures_option, renderable_for, show_hits
from api.client.terminal.show import console_for_lines, show_json

__all__ = ["condition_of", "filter_option", "search", "where_option", "which_collection"]

where_option = click.option(
    "--where",
    "wheres",
    multiple=True,
    metavar="CONDITION",
    help="As in 'group=food & drink', group!=flags, 'year>=2000', 'group=flags|symbols' (one of), year, !year. Repeat: "
    "all must hold.",
)
filter_option = click.option(
    "--filter",
    "filter_json",
    metavar="JSON",
    help='Any condition, as in {"or": [{"field": "year", "lt": 1900}, {"not": ...}]}.',
)
FIELDS = ("limit", "min_score", "min_cosine", "dedup", "diversity", "cursor")


@click.command()
@click.argument("texts", nargs=-1)
@click.option(
    "--not", "negatives", multiple=True, metavar="TEXT", help="Away from this: a text, a file, img_... Repeat."
)
@click.option("--image", "images", multiple=True, help="Like this: a file, img_... or JOB/NAME. Repeat.")
@click.option("--id", "ids", multiple=True, help="Like this picture of the collection. Repeat.")
@click.option("--collection", "-c", help="Where; may be left out if you have only one.")
@where_option
@filter_option
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=10, show_default=True, help="At most so many.")
@click.option("--min-score", type=click.FloatRange(0, 1), help="None below this.")
@click.option("--min-cosine", type=click.FloatRange(-1, 1), help="None below this.")
@click.option(
    "--dedup",
    type=click.FloatRange(0, 1, min_open=True),
    help="Of pictures whose cosine is so high, 0.97 say, only the best.",
)
@click.option("--diversity", type=click.FloatRange(0, 1), help="0: the nearest; up to 1: the more different.")
@click.option("--cursor", help="Go on where a page ended.")
@click.option("--sheet", type=click.Path(path_type=Path, dir_okay=False), help="Write a contact sheet, a PNG.")
@pictures_option
@json_option
@connected
def search(
    client: DreamqueueClient,
    collection: str | None,
    wheres: tuple[str, ...],
    filter_json: str | None,
    sheet: Path | None,
    pictures: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Find pictures by what they show. Every TEXT counts; "2:red" counts twice, "1:16:9" looks for 16:9.

    \b
    dreamqueue search "red fruit" --not apple
    dreamqueue search "2:red" animal --where 'group=animals & nature' --sheet red.png
    dreamqueue search --image sketch.png "0.5:watercolour"
    """
    query = Query(*(options[name] for name in ("texts", "negatives", "images", "ids")))
    terms = _terms(query)
    where = which_collection(client, collection)
    answer = client.search(
        where["name"],
        terms=[_uploaded(client, term) for term in terms],
        filter=condition_of(wheres, filter_json, where["fields"]),
        **{name: options[name] for name in FIELDS if options[name] is not None},
    )
    if as_json:
        show_json(answer)
    console = console_for_lines()
    renderable = None if as_json else renderable_for(pictures, console)
    found = fetched(client, answer["hits"]) if renderable or sheet else found_in(answer["hits"])
    if not as_json:
        show_hits(found, renderable, console)
        _say_more(answer)
    if sheet:
        _draw(_spoken(query), found, sheet)


def _terms(query: Query) -> list[dict[str, Any]]:
    try:
        return parse_query(query)
    except QueryError as error:
        raise click.UsageError(str(error)) from None


def which_collection(client: DreamqueueClient, name: str | None) -> dict[str, Any]:
    """The one that is named, or the only one; several are offered to a person who can choose."""
    if name is not None:
        return client.collection(name)
    there = client.collections()
    if not there:
        raise click.UsageError("you have no collection yet; make one: dreamqueue index --openmoji")
    if len(there) == 1:
        return there[0]
    names = [str(one["name"]) for one in there]
    if not sys.stdin.isatty():
        raise click.UsageError(f"say which --collection: {', '.join(names)}")
    chosen = click.prompt("collection", type=click.Choice(names), default=names[-1], err=True)
    return next(one for one in there if one["name"] == chosen)


def condition_of(wheres: tuple[str, ...], filter_json: str | None, types: dict[str, str]) -> dict[str, Any] | None:
    """What --where and --filter say together."""
    try:
        said = parse_condition(wheres, types)
    except QueryError as error:
        raise click.BadParameter(str(error), param_hint="--where") from None
    if filter_json is None:
        return said
    try:
        given = json.loads(filter_json)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--filter") from None
    if not isinstance(given, dict):
        raise click.BadParameter("must be a JSON object", param_hint="--filter")
    return given if said is None else {"and": [said, given]}


def _uploaded(client: DreamqueueClient, term: dict[str, Any]) -> dict[str, Any]:
    image = term.get("image")
    return {**term, "image": client.upload_image(image)} if isinstance(image, Path) else term


def _say_more(answer: dict[str, Any]) -> None:
    among = (
        f"{answer['matching']:,} of {answer['rows']:,}"
        if answer["matching"] != answer["rows"]
        else f"{answer['rows']:,}"
    )
    took_s = answer["timings"].get("run_s")
    click.echo(
        f"{len(answer['hits'])} of {among} pictures in {answer['collection']}, by {answer['model']}"
        + (f", {1000 * took_s:.0f} ms" if took_s is not None else ""),
        err=True,
    )
    for text in answer["truncated_texts"]:
        click.echo(f"the model reads only the beginning of: {text}", err=True)
    if answer["next_cursor"]:
        click.echo(f"more: --cursor {answer['next_cursor']}", err=True)


def _spoken(query: Query) -> str:
    images = (Path(image).name for image in query.images)
    return "   ".join([*query.texts, *(f"not {text}" for text in query.negatives), *images, *query.ids])


def _draw(title: str, found: list[Any], sheet: Path) -> None:
    try:
        draw_hits(title, found, sheet)
    except ModuleNotFoundError:
        raise click.ClickException("a contact sheet needs Pillow: pip install 'dreamqueue[pictures]'") from None
    click.echo(f"contact sheet: {sheet}", err=True)
