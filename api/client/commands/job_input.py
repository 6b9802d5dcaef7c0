"""From words on a command line to the input of a job: the options that `submit` and `run` share."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import click

__all__ = ["input_options", "job_input", "pairs"]

DIRECT = ("n", "keep", "seed", "model", "iterations", "preview_every")  # options that are input fields by name
Command = Callable[..., Any]
OPTIONS = (
    click.option("-n", "--n", type=int, help="dalle, unclip: candidates per prompt."),
    click.option("--keep", type=int, help="dalle, unclip: the best so many by CLIP."),
    click.option("--iterations", type=int, help="vqgan_clip: steps."),
    click.option("--size", help="vqgan_clip: WIDTHxHEIGHT, as 64x64."),
    click.option("--seed", type=int, help="0 is a seed; drawn if left out."),
    click.option("--model", help="Which model; see `dreamqueue models`."),
    click.option("--preview-every", type=int, help="Steps between previews; 0 for none."),
    click.option(
        "--image",
        "images",
        multiple=True,
        help="rank, classify: a file (uploaded), img_... or JOB/NAME. Repeat. unclip: the one to vary.",
    ),
    click.option("--label", "labels", multiple=True, help="classify: a label. Repeat."),
    click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other input field; VALUE as JSON or text."
    ),
    click.option("--json", "json_file", type=click.File(), help="A file with the input as JSON; options override it."),
)


def input_options(command: Command) -> Command:
    """Add the options of a job's input to a command."""
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(OPTIONS), command)


def job_input(
    kind: str, prompts: tuple[str, ...], options: dict[str, Any], picture: Callable[[Path], str]
) -> dict[str, Any]:
    """The input that the options make, those of `--json` first. `picture` turns a file into a reference."""
    return {**_from_file(options["json_file"]), **_from_options(kind, prompts, options, picture)}


def _from_options(
    kind: str, prompts: tuple[str, ...], options: dict[str, Any], picture: Callable[[Path], str]
) -> dict[str, Any]:
    found: dict[str, Any] = {name: options[name] for name in DIRECT if options[name] is not None}
    if prompts:
        found.update({"prompt": " ".join(prompts)} if kind == "rank" else {"prompts": list(prompts)})
    if options["size"]:
        found["size"] = _size(options["size"])
    if options["images"]:
        pictures = [_reference(image, picture) for image in options["images"]]
        found.update(_varied(pictures) if kind == "unclip" else {"images": pictures})
    if options["labels"]:
        found["labels"] = list(options["labels"])
    found.update({name: _value(text) for name, text in pairs(options["settings"], "--set").items()})
    return found


def _varied(pictures: list[str]) -> dict[str, str]:
    if len(pictures) > 1:
        raise click.BadParameter("unclip varies one picture at a time", param_hint="--image")
    return {"image": pictures[0]}


def _reference(image: str, picture: Callable[[Path], str]) -> str:
    path = Path(image)
    return picture(path) if path.is_file() else image


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


def pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    """KEY=VALUE, each. Raises click.BadParameter."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint=option)
        found[name] = value
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
