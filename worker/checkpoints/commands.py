"""The command group `weights`: published checkpoints to the files that a worker loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
FOLDERS = (
    click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path)),
    click.argument("target", type=click.Path(path_type=Path)),
)


class Conversions(click.Group):
    """A group whose commands end with one line, not a trace, where a checkpoint is not what it should be."""

    def invoke(self, ctx: click.Context) -> Any:
        """As click's, with ModelUnavailable told as a command's error."""
        from shared.errors import ModelUnavailable

        try:
            return super().invoke(ctx)
        except ModelUnavailable as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Conversions)
def weights() -> None:
    """Turn published checkpoints into files that a worker loads, and print their entry for registry.json."""


@weights.command("min-dalle")
@FOLDERS[0]
@FOLDERS[1]
@click.option("--size", type=click.Choice(["mini", "mega"]), required=True, help="which of the published models")
def min_dalle(source: Path, target: Path, size: str) -> None:
    """dalle-mini or dalle-mega from SOURCE/{encoder.pt, decoder.pt, vocab.json, merges.txt}, into TARGET.

    Name the CLIP that ranks its pictures in the entry yourself.
    """
    from worker.checkpoints.bart_tokenizer import bart_tokenizer
    from worker.checkpoints.min_dalle import convert
    from worker.models.dalle.dalle_bart import PRESETS

    tokenizer = bart_tokenizer(source / "vocab.json", source / "merges.txt", PRESETS[size])
    count = convert(source, target, PRESETS[size])
    tokenizer.save(str(target / TOKENIZER))
    entry = _entry(f"dalle-{size}", "dalle", target, (CONFIG, WEIGHTS, TOKENIZER))
    more = {"tokenizer": f"{target.name}/{TOKENIZER}", "vqgan": "vqgan-f16-16384", "clip": None}
    _print(entry | {"params": count, "dtype": "float16"} | more)


@weights.command("min-dalle-vqgan")
@FOLDERS[0]
@FOLDERS[1]
def min_dalle_vqgan(source: Path, target: Path) -> None:
    """The VQGAN of both, from SOURCE/detoker.pt, into TARGET. It has no encoder: no image prompts."""
    from worker.checkpoints.detoker import convert_vqgan

    count = convert_vqgan(source, target)
    _print(_entry("vqgan-f16-16384", "vqgan", target, (CONFIG, WEIGHTS)) | {"params": count, "dtype": "float32"})


def _entry(model_id: str, family: str, folder: Path, files: tuple[str, ...]) -> dict[str, Any]:
    from worker.checkpoints.registry import digest

    return {
        "id": model_id,
        "family": family,
        "folder": folder.name,
        "config": CONFIG,
        "weights": WEIGHTS,
        "sha256": {name: digest(folder / name) for name in files},
        "source": "https://huggingface.co/kuprel/min-dalle",
        "licence": "Apache-2.0",
        "pool": "default",
    }


def _print(entry: dict[str, Any]) -> None:
    click.echo(json.dumps(entry, indent=2))
