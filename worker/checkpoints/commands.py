"""The command group `weights`: published checkpoints to the files that a worker loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"


@click.group()
def weights() -> None:
    """Turn published checkpoints into files that a worker loads."""


@weights.command("min-dalle")
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--size", type=click.Choice(["mini", "mega"]), required=True, help="which of the published models")
def min_dalle(source: Path, target: Path, size: str) -> None:
    """dalle-mini or dalle-mega from SOURCE/{encoder.pt, decoder.pt, vocab.json, merges.txt}.

    Writes TARGET and prints the entry for registry.json; name the VQGAN and the CLIP in it yourself.
    """
    from shared.errors import ModelUnavailable
    from worker.checkpoints.bart_tokenizer import bart_tokenizer
    from worker.checkpoints.min_dalle import convert
    from worker.models.dalle_bart import PRESETS

    try:
        tokenizer = bart_tokenizer(source / "vocab.json", source / "merges.txt", PRESETS[size])
        count = convert(source, target, PRESETS[size])
    except ModelUnavailable as error:
        raise click.ClickException(str(error)) from error
    tokenizer.save(str(target / TOKENIZER))
    click.echo(json.dumps(_entry(f"dalle-{size}", target, count), indent=2))


def _entry(model_id: str, folder: Path, count: int) -> dict[str, Any]:
    from worker.checkpoints.registry import digest

    return {
        "id": model_id, "family": "dalle", "folder": folder.name, "config": CONFIG, "weights": WEIGHTS,
        "tokenizer": f"{folder.name}/{TOKENIZER}",
        "sha256": {name: digest(folder / name) for name in (CONFIG, WEIGHTS, TOKENIZER)},
        "dtype": "float16", "params": count, "source": "https://huggingface.co/kuprel/min-dalle",
        "licence": "Apache-2.0", "pool": "default", "vqgan": None, "clip": None,
    }  # fmt: skip
