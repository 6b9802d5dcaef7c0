"""Data sets: of the emoji packages or of one's own, and the archive of OpenMoji's pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from worker.training.commands.group import data_option, train


def of_ones_own(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a set of one's own."""
    place = click.Path(path_type=Path, exists=True)
    options = [
        click.option(
            "--from",
            "path",
            type=place,
            help="take this set in place of the emoji: a .csv or .tsv, a folder "
            "of pictures with .txt files beside them, a webdataset .tar or a folder of them",
        ),
        click.option("--name", "design", default="", help="of the set, for the manifest: a-z 0-9 . _ -"),
        click.option("--source", default="", help="package, address or owner of the set, for the manifest"),
        click.option("--licence", default="", help="SPDX name of its licence, for the manifest"),
        click.option("--set-version", default="", help="of the set, for the manifest"),
        click.option("--held-out", type=place, help="pictures that are only measured on, in any of these forms"),
        click.option("--held-out-share", default=0.05, show_default=True, help="else this share, by hash of name"),
        click.option("--image-column", default="image", show_default=True),
        click.option("--caption-column", default="caption", show_default=True, help="of a table, or of .json members"),
        click.option("--keywords-column", default="keywords", show_default=True, help="optional; apart by , ; or |"),
        click.option("--skip-bad", is_flag=True, help="tell and leave out what cannot be read"),
        click.option("--max-pixels", default=50_000_000, show_default=True, help="refuse pictures that claim more"),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@train.command()
@data_option
@click.option("--share-alike", is_flag=True, help="also take emojione-v1, which is CC-BY-SA")
@of_ones_own
def data(data: Path, share_alike: bool, path: Path | None, **own: Any) -> None:
    """Write train.zip, heldout.zip and tokenizer.json: of the emoji packages, or of a set of your own (--from)."""
    from worker.training.data.captions import train_tokenizer
    from worker.training.data.pictures import Pictures, build

    if path is not None:
        _import_own(data, path, own)
    else:
        for design, count in build(data, share_alike).items():
            click.echo(f"{design:20} {count:5}")
    tokenizer = train_tokenizer(Pictures.training(data).rows)
    tokenizer.save(str(data / "tokenizer.json"))
    click.echo(f"{'tokenizer entries':20} {tokenizer.get_vocab_size():5}")


def _import_own(data: Path, path: Path, own: dict[str, Any]) -> None:
    from worker.training.data.folders import Columns
    from worker.training.data.imports import ImportPlan, Origin, import_set

    done = import_set(
        ImportPlan(
            path=path,
            origin=Origin(own["design"], own["source"], own["licence"], own["set_version"]),
            held_out=own["held_out"],
            share=own["held_out_share"],
            columns=Columns(own["image_column"], own["caption_column"], own["keywords_column"]),
            skip_bad=own["skip_bad"],
            max_pixels=own["max_pixels"],
        ),
        data,
    )
    for fault in done.faults:
        click.echo(f"left out: {fault}", err=True)
    counts = (("training", done.training), ("held out", done.held_out), ("met again", done.again))
    for name, count in (*counts, ("left out", len(done.faults))):
        click.echo(f"{name:20} {count:5}")


@train.command()
@data_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("deploy/pictures/openmoji.zip"),
    show_default=True,
)
def openmoji(data: Path, out: Path) -> None:
    """Write the archive of pictures that `dreamqueue index --openmoji` puts into a collection."""
    from worker.training.data.openmoji import build_archive

    click.echo(f"{build_archive(data, out):,} pictures, {out.stat().st_size / 1e6:.2f} MB: {out}")
