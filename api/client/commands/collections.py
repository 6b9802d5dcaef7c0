"""collections: list, show, create, delete; near-duplicates and groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from api.client.client import DreamqueueClient
from api.client.commands.connection import connected, json_option
from api.client.errors import JobFailed
from api.client.job import Job
from api.client.terminal.show import show_json, show_rows, watched

__all__ = ["collections"]

COLUMNS = ["name", "rows", "model", "bytes", "changed_at", "description"]
SHOWN_IDS = 3
out_option = click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Save the whole list, as JSON and CSV, here."
)


class _ListFirst(click.Group):
    """A group that lists when nothing else is asked for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["list"])


@click.group(cls=_ListFirst)
def collections() -> None:
    """Pictures that can be searched: list them, look at one, make and delete them."""


@collections.command("list")
@json_option
@connected
def list_(as_json: bool, client: DreamqueueClient) -> None:
    """List your collections, oldest first."""
    found = client.collections()
    if as_json:
        show_json(found)
    elif found:
        show_rows(found, COLUMNS)
    else:
        click.echo("none yet; make one: dreamqueue index --openmoji", err=True)


@collections.command("show")
@click.argument("name")
@json_option
@connected
def show(name: str, as_json: bool, client: DreamqueueClient) -> None:
    """Describe one: its model, how many pictures, which metadata fields."""
    found = client.collection(name)
    if as_json:
        show_json(found)
        return
    fields = ", ".join(f"{field} ({type_})" for field, type_ in found["fields"].items())
    shown = {name: value for name, value in found.items() if name not in ("urls", "fields")}
    show_rows([{"": key, "value": value} for key, value in {**shown, "fields": fields or None}.items()], ["", "value"])


@collections.command("create")
@click.argument("name")
@click.option("--model", help="The CLIP that sees its pictures; see `dreamqueue models`.")
@click.option("--description", default="", help="For people.")
@connected
def create(name: str, model: str | None, description: str, client: DreamqueueClient) -> None:
    """Make an empty one. `dreamqueue index` makes what it needs by itself."""
    made = client.create_collection(name, model=model, description=description)
    click.echo(f"{made['name']}  {made['model']}  {made['rows']:,} pictures")


@collections.command("delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@connected
def delete(name: str, yes: bool, client: DreamqueueClient) -> None:
    """Delete one, at once and for good; uploaded pictures stay."""
    there = client.collection(name)
    if not yes:
        click.confirm(f"delete {name} with {there['rows']:,} pictures?", abort=True, err=True)
    client.delete_collection(name)
    click.echo(f"deleted {name}")


@collections.command("duplicates")
@click.argument("name")
@click.option("--threshold", type=click.FloatRange(0.5, 1), help="Cosine from which two are near-duplicates.")
@out_option
@json_option
@connected
def duplicates(name: str, threshold: float | None, out: Path | None, as_json: bool, client: DreamqueueClient) -> None:
    """Find pictures that are nearly the same."""
    job = _ended(client, client.duplicates(name, threshold=threshold))
    result = _result(job)
    if as_json:
        show_json(result)
    else:
        click.echo(
            f"{len(result['sets']):,} sets of near-duplicates among {result['pictures']:,} pictures, "
            f"cosine {result['threshold']:g} and above"
        )
        for ids in result["sets"]:
            click.echo(f"  {'  '.join(ids)}")
    _save(client, job, out)


@collections.command("groups")
@click.argument("name")
@click.option("--k", type=click.IntRange(2, 1000), default=8, show_default=True, help="How many.")
@click.option("--label", "labels", multiple=True, help="Words to name groups by, the nearest one each. Repeat.")
@click.option("--seed", type=int, help="Of the first guess.")
@out_option
@json_option
@connected
def groups(
    name: str,
    k: int,
    labels: tuple[str, ...],
    seed: int | None,
    out: Path | None,
    as_json: bool,
    client: DreamqueueClient,
) -> None:
    """Sort it into groups of pictures that are alike."""
    job = _ended(client, client.groups(name, k=k, labels=labels, seed=seed))
    result = _result(job)
    if as_json:
        show_json(result)
    else:
        rows = [{**group, "nearest": group["ids"][:SHOWN_IDS]} for group in result["groups"]]
        show_rows(rows, ["name", "size", "cosine", "nearest"])
    _save(client, job, out)


def _ended(client: DreamqueueClient, job: Job) -> Job:
    job = watched(client, job.id)
    if job.state != "succeeded":
        raise JobFailed(job)
    return job


def _result(job: Job) -> dict[str, Any]:
    return job.result or {}


def _save(client: DreamqueueClient, job: Job, out: Path | None) -> None:
    for path in client.download_all(job, out) if out else []:
        click.echo(f"  {path}", err=True)
