"""classify: pictures, or a whole collection, sorted by words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from api.client.client import DreamqueueClient
from api.client.commands.connection import connected, json_option
from api.client.commands.search import condition_of, filter_option, where_option
from api.client.errors import JobFailed
from api.client.terminal.show import show_json, show_rows, watched

__all__ = ["classify"]

TEMPLATES = ("imagenet_80", "imagenet_7")  # sets that have a name; anything else is a template
SHOWN = 3  # labels of a picture, in a table


@click.command()
@click.argument("images", nargs=-1)
@click.option("--collection", "-c", help="All pictures of this collection, in place of IMAGES.")
@click.option("--label", "labels", multiple=True, help="What a picture may show. Repeat.")
@click.option("--labels-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A label a line.")
@click.option(
    "--templates",
    multiple=True,
    metavar="NAME|TEXT",
    help="imagenet_80, imagenet_7, or a text with {} for the label. Repeat texts.",
)
@click.option(
    "--other-below",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="A picture whose best label is less likely than this is `other`.",
)
@click.option("--top-k", type=click.IntRange(1, 100), help="Labels listed per picture.")
@click.option("--model", help="The CLIP for IMAGES; a collection has its own.")
@where_option
@filter_option
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Save the whole, as JSON and CSV, here.")
@json_option
@connected
def classify(
    client: DreamqueueClient,
    images: tuple[str, ...],
    collection: str | None,
    wheres: tuple[str, ...],
    filter_json: str | None,
    out: Path | None,
    as_json: bool,
    **words: Any,
) -> None:
    """Say which label fits each picture, with probabilities. IMAGES are files, img_... or JOB/NAME.

    \b
    dreamqueue classify cat.png --label cat --label dog
    dreamqueue classify --collection photos --labels-file words.txt --templates imagenet_80 --out labelled
    """
    selection = _Selection(images, collection, wheres, filter_json)
    selection.check()
    input_ = _words(**words) | selection.input(client)
    job = watched(client, client.submit("classify", {name: value for name, value in input_.items() if value}).id)
    if job.state != "succeeded" or job.result is None:
        raise JobFailed(job)
    if as_json:
        show_json(job.data)
    else:
        _show(job.result, dict(zip(input_.get("images", []), images, strict=True)))
    for path in client.download_all(job, out) if out else []:
        click.echo(f"  {path}", err=True)


@dataclass(frozen=True)
class _Selection:
    """Which pictures are classified."""

    images: tuple[str, ...]
    collection: str | None
    wheres: tuple[str, ...]
    filter_json: str | None

    def check(self) -> None:
        """Raises UsageError for options that contradict each other."""
        if bool(self.images) == (self.collection is not None):
            raise click.UsageError("give IMAGES or --collection")
        if self.collection is None and (self.wheres or self.filter_json):
            raise click.UsageError("--where and --filter are for a collection")

    def input(self, client: DreamqueueClient) -> dict[str, Any]:
        """Its part of the job's input; files are uploaded."""
        if self.collection is None:
            return {"images": [client.upload_image(Path(ref)) if Path(ref).is_file() else ref for ref in self.images]}
        types = client.collection(self.collection)["fields"] if self.wheres else {}
        return {"collection": self.collection, "filter": condition_of(self.wheres, self.filter_json, types)}


def _words(
    labels: tuple[str, ...], labels_file: Path | None, templates: tuple[str, ...], **fields: Any
) -> dict[str, Any]:
    """What may be said of a picture, as fields of the job's input. `fields`: input fields by their own names."""
    is_named = len(templates) == 1 and templates[0] in TEMPLATES
    return {
        "labels": _labels(labels, labels_file),
        "templates": templates[0] if is_named else list(templates),
        **fields,
    }


def _labels(labels: tuple[str, ...], file: Path | None) -> list[str]:
    lines = file.read_text(encoding="utf-8-sig").splitlines() if file else []
    found = list(dict.fromkeys([*labels, *(line.strip() for line in lines if line.strip())]))
    if len(found) < 2:
        raise click.UsageError("give two labels at least: --label, --labels-file")
    return found


def _show(result: dict[str, Any], names: dict[str, str]) -> None:
    rows = []
    for item in result["classifications"]:
        likely = [f"{label['label']} {label['probability']:.1%}" for label in item["labels"][:SHOWN]]
        rows.append({"picture": names.get(item["image"], item["image"]), "label": item["label"], "likely": likely})
    show_rows(rows, ["picture", "label", "likely"])
    if "collection" in result and (counts := result.get("counts")):
        click.echo()
        most = sorted(counts.items(), key=lambda pair: -pair[1])
        show_rows([{"label": label, "pictures": count} for label, count in most], ["label", "pictures"])
