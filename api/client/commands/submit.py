"""submit: from words on a command line to a job."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import IO, Any

import click

from api.client.client import DreamqueueClient
from api.client.commands.connection import connected, output_option
from api.client.commands.jobs import finish, out_option
from api.client.terminal.show import show_job, show_json, watched

__all__ = ["submit"]

KINDS = ("dalle", "vqgan_clip", "unclip", "rank", "classify", "probe")
DIRECT = ("n", "keep", "seed", "model", "iterations", "preview_every")  # options that are input fields by name


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("prompts", nargs=-1)
@click.option("-n", "--n", type=int, help="dalle, unclip: candidates per prompt.")
@click.option("--keep", type=int, help="dalle, unclip: the best so many by CLIP.")
@click.option("--iterations", type=int, help="vqgan_clip: steps.")
@click.option("--size", help="vqgan_clip: WIDTHxHEIGHT, as 64x64.")
@click.option("--seed", type=int, help="0 is a seed; drawn if left out.")
@click.option("--model", help="Which model; see `dreamqueue models`.")
@click.option("--preview-every", type=int, help="Steps between previews; 0 for none.")
@click.option(
    "--image",
    "images",
    multiple=True,
    help="rank, classify: a file (uploaded), img_... or JOB/NAME. Repeat. unclip: the one to vary.",
)
@click.option("--label", "labels", multiple=True, help="classify: a label. Repeat.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other input field; VALUE as JSON or text."
)
@click.option("--json", "json_file", type=click.File(), help="A file with the input as JSON; options override it.")
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), help="Before or behind other jobs of yours.")
@click.option("--deadline", "deadline_s", type=float, help="Seconds from now by which it must have ended.")
@click.option("--meta", "metadata", multiple=True, metavar="KEY=VALUE", help="A note on the job. Repeat.")
@click.option("--id", "job_id", help="An id of yours, a UUID: sending it again is the same job.")
@click.option("--wait/--no-wait", default=False, help="Watch it until it ends.")
@out_option
@output_option
@connected
def submit(
    client: DreamqueueClient,
    kind: str,
    prompts: tuple[str, ...],
    json_file: IO[str] | None,
    wait: bool,
    out: Path | None,
    output: str,
    **options: Any,
) -> None:
    """Give a job and print its id; with --wait or --out, watch it and show what it made.

    \b
    dreamqueue submit dalle "a red apple" --n 16 --keep 4 --out apples
    dreamqueue submit vqgan_clip "a green tree" --iterations 200 --wait
    dreamqueue submit unclip --image apple.png --n 4 --wait
    dreamqueue submit classify --image cat.png --label cat --label dog --wait
    """
    input_ = {**_from_file(json_file), **_input(kind, prompts, options, client)}
    given = {name: options[name] for name in ("priority", "deadline_s")}
    given["metadata"] = _pairs(options["metadata"], "--meta")
    fields = {name: value for name, value in given.items() if value}
    own_id = options["job_id"]
    job = client.put(own_id, kind, input_, **fields) if own_id else client.submit(kind, input_, **fields)
    if wait or out:
        finish(client, watched(client, job.id), out, output)
    elif output == "json":
        show_json(job.data)
    elif sys.stdout.isatty():
        show_job(job)
    else:
        click.echo(job.id)


def _input(kind: str, prompts: tuple[str, ...], options: dict[str, Any], client: DreamqueueClient) -> dict[str, Any]:
    found: dict[str, Any] = {name: options[name] for name in DIRECT if options[name] is not None}
    if prompts:
        found.update({"prompt": " ".join(prompts)} if kind == "rank" else {"prompts": list(prompts)})
    if options["size"]:
        found["size"] = _size(options["size"])
    if options["images"]:
        pictures = [_picture(image, client) for image in options["images"]]
        found.update(_varied(pictures) if kind == "unclip" else {"images": pictures})
    if options["labels"]:
        found["labels"] = list(options["labels"])
    found.update({name: _value(text) for name, text in _pairs(options["settings"], "--set").items()})
    return found


def _varied(pictures: list[str]) -> dict[str, str]:
    if len(pictures) > 1:
        raise click.BadParameter("unclip varies one picture at a time", param_hint="--image")
    return {"image": pictures[0]}


def _picture(image: str, client: DreamqueueClient) -> str:
    path = Path(image)
    return client.upload_image(path) if path.is_file() else image


def _from_file(file: IO[str] | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        value = json.load(file)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--json") from None
    if not isinstance(value, dict):
        raise click.BadParameter("must be a JSON object", param_hint="--json")
    return value


def _size(text: str) -> list[int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise click.BadParameter("as 64x64", param_hint="--size")
    return [int(width), int(height)]


def _pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint=option)
        pairs[name] = value
    return pairs


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
