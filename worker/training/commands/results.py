"""What trained models are worth, and where they go: eval, card, export, calibrate."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import click

from worker.training.commands.group import data_option, device_option, pick_device, train


@train.command()
@data_option
@click.option(
    "--models",
    "folder",
    type=click.Path(path_type=Path),
    help="folder of clip, vqgan, dalle, unclip, judge; default: the embedded models",
)
@device_option
@click.option(
    "--names",
    default=200,
    show_default=True,
    help="names of common things that are drawn and judged: fewer are faster, 0 draws none",
)
@click.option("--json", "path", type=click.Path(path_type=Path), help="also write figures, seeds and machine here")
def eval(data: Path, folder: Path | None, device: str | None, names: int, path: Path | None) -> None:
    """Measure everything: CLIP and VQGAN on the held-out design, generated pictures before the judge."""
    from worker.training.evaluation.report import open_models, report, table, write_document

    document = report(data, open_models(folder, pick_device(device)), names, lambda text: click.echo(text, err=True))
    for line in table(document):
        click.echo(line)
    if path:
        write_document(path, document)


@train.command()
@data_option
@click.option("--models", "folder", type=click.Path(path_type=Path), help="default: the embedded models")
@device_option
@click.option("--runs", multiple=True, type=click.Path(path_type=Path), help="output folder of a stage: its curves")
@click.option(
    "--bench",
    type=click.Path(path_type=Path),
    default=Path("out/bench.jsonl"),
    show_default=True,
    help="where the seconds per job are from",
)
@click.option("--share", default=1.0, show_default=True, help="of the fixed prompts; 0 draws none of them")
@click.option("--only", multiple=True, type=click.Choice(["dalle", "unclip", "vqgan_clip"]), help="sheets of this kind")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("worker/weights"),
    show_default=True,
    help="folder of MODEL_CARD.md and figures.json; the pictures go into its folder pictures",
)
def card(
    data: Path,
    folder: Path | None,
    device: str | None,
    runs: tuple[Path, ...],
    bench: Path,
    share: float,
    only: tuple[str, ...],
    out: Path,
) -> None:
    """Draw the model card's pictures and write its table from figures.json (train eval --json)."""
    from worker.training.evaluation import card as cards
    from worker.training.evaluation.report import open_models, write_document

    document = cards.read_document(out / "figures.json")
    opened = open_models(folder, pick_device(device))
    cards.check_weights(document, opened)
    document["figures"] |= cards.timings(bench)
    if runs:
        cards.draw_run_curves(runs, out / "pictures")
    near = cards.draw_card(opened, data, out / "pictures", share, click.echo, only)
    document["nearest"] = document.get("nearest", {}) | near
    write_document(out / "figures.json", document)
    cards.write_card(out / "MODEL_CARD.md", document)


@train.command()
@click.option(
    "--models",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    help="folder of clip, vqgan, dalle, unclip, judge",
)
@data_option
@click.option("--out", type=click.Path(path_type=Path), default=Path("worker/weights"), show_default=True)
def export(folder: Path, data: Path, out: Path) -> None:
    """Copy trained models into a weights folder and write its registry with digests."""
    from worker.training.export import export_models

    for name, size in export_models(folder, data / "tokenizer.json", out).items():
        click.echo(f"{name:20} {size / 1e6:7.2f} MB")


@train.command()
@data_option
@click.option("--model", "model_id", default="emoji-clip", show_default=True, help="a CLIP of the registry")
@click.option("--weights", default="", help="folder of registry.json; the shipped one if left out")
def calibrate(data: Path, model_id: str, weights: str) -> None:
    """Fit what turns a search's cosines into probabilities; prints the registry's `calibration`."""
    import torch

    from worker.checkpoints.loading import load_model
    from worker.checkpoints.registry import EMBEDDED, ModelRegistry
    from worker.training.data.pictures import Pictures
    from worker.training.evaluation.calibration import calibrate as fitted

    registry = ModelRegistry.load(Path(weights) / "registry.json" if weights else EMBEDDED)
    clip: Any = load_model(registry.get(model_id), torch.device("cpu"), torch.float32)
    found = fitted(clip, Pictures.held_out(data), Pictures.training(data))
    for kind, (_, judged) in found.items():
        for said, true, count in judged:
            click.echo(f"{kind}: score {said:.3f}, shows it {true:.3f} of {count}")
    click.echo(json.dumps({kind: [round(value, 4) for value in astuple(made)] for kind, (made, _) in found.items()}))
