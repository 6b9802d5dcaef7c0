"""The command group `train`: one command per stage: data, clip, vqgan, dalle, unclip, eval, card, export, openmoji."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

DATA = Path(".train")


class Stages(click.Group):
    """A group whose commands end with one line, not a trace, where a stage cannot go on."""

    def invoke(self, ctx: click.Context) -> Any:
        """As click's, with TrainingError told as a command's error."""
        from worker.training.errors import TrainingError

        try:
            return super().invoke(ctx)
        except TrainingError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Stages)
def train() -> None:
    """Make the embedded models again: data, clip, vqgan, dalle, unclip, eval, card, export, openmoji."""


def stage(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every training stage has."""
    options = [
        click.option(
            "--data", type=click.Path(path_type=Path), default=DATA, show_default=True, help="data set folder"
        ),
        click.option("--out", type=click.Path(path_type=Path), required=True, help="output folder"),
        click.option("--minutes", type=float, help="time budget"),
        click.option("--steps", type=int, help="step budget"),
        click.option("--device", default=None, help="cpu, cuda, cuda:1; default: cuda if there is one"),
        click.option("--batch", type=int, help="pictures per step"),
        click.option("--resume", is_flag=True, help="go on from the checkpoint in --out"),
        click.option("--set", "sets", multiple=True, metavar="NAME=VALUE", help="change one number of the recipe"),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def pick_device(name: str | None) -> Any:
    """The named device, else CUDA if there is one, else the CPU."""
    import torch

    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    return device


def changed(recipe: Any, batch: int | None, sets: tuple[str, ...]) -> Any:
    """A recipe with some of its fields replaced, each read as JSON."""
    from dataclasses import replace

    values = {name: json.loads(value) for name, _, value in (item.partition("=") for item in sets)}
    if batch:
        values["batch"] = batch
    return replace(recipe, **values)


def tokenizer_at(data: Path) -> Any:
    """The data set's caption tokenizer."""
    from worker.models.text import CaptionTokenizer

    return CaptionTokenizer.load(data / "tokenizer.json")


def of_ones_own(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a set of one's own."""
    place = click.Path(path_type=Path, exists=True)
    options = [
        click.option("--from", "path", type=place, help="take this set in place of the emoji: a .csv or .tsv, a folder "
                     "of pictures with .txt files beside them, a webdataset .tar or a folder of them"),
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
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


@train.command()
@click.option("--data", type=click.Path(path_type=Path), default=DATA, show_default=True, help="data set folder")
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
@stage
@click.option("--judge", is_flag=True, help="the model that only judges: another tower, seed and augmentation")
def clip(data: Path, out: Path, minutes: float | None, steps: int | None, device: str | None, batch: int | None,
         resume: bool, sets: tuple[str, ...], judge: bool) -> None:  # fmt: skip
    """Train CLIP."""
    from worker.training.loop import Budget
    from worker.training.recipes.clip import JUDGE, ClipRecipe, train_clip

    recipe = changed(JUDGE if judge else ClipRecipe(), batch, sets)
    train_clip(data, out, tokenizer_at(data), recipe, Budget(minutes, steps), pick_device(device), resume)


@train.command()
@stage
@click.option("--clip", "clip_folder", type=click.Path(path_type=Path), help="CLIP whose features the loss compares")
def vqgan(data: Path, out: Path, minutes: float | None, steps: int | None, device: str | None, batch: int | None,
          resume: bool, sets: tuple[str, ...], clip_folder: Path | None) -> None:  # fmt: skip
    """Train VQGAN."""
    from worker.checkpoints.loading import open_folder
    from worker.training.loop import Budget
    from worker.training.recipes.vqgan import VQGANRecipe, train_vqgan

    features: Any = open_folder("clip", clip_folder, data / "tokenizer.json") if clip_folder else None
    recipe = changed(VQGANRecipe(), batch, sets)
    train_vqgan(data, out, features, recipe, Budget(minutes, steps), pick_device(device), resume)


@train.command()
@stage
@click.option("--vqgan", "vqgan_folder", type=click.Path(path_type=Path), required=True, help="trained VQGAN")
@click.option("--compile", "compiled", is_flag=True, help="torch.compile: pays on runs of several minutes on CUDA")
def dalle(data: Path, out: Path, minutes: float | None, steps: int | None, device: str | None, batch: int | None,
          resume: bool, sets: tuple[str, ...], vqgan_folder: Path, compiled: bool) -> None:  # fmt: skip
    """Train the DALL-E transformer."""
    from worker.checkpoints.loading import open_folder
    from worker.training.loop import Budget
    from worker.training.recipes.dalle import DalleRecipe, train_dalle

    codes: Any = open_folder("vqgan", vqgan_folder)
    recipe = changed(DalleRecipe(), batch, sets)
    budget = Budget(minutes, steps)
    train_dalle(data, out, codes, tokenizer_at(data), recipe, budget, pick_device(device), resume, compiled)


@train.command()
@stage
@click.option("--clip", "clip_folder", type=click.Path(path_type=Path), required=True, help="trained CLIP")
@click.option("--vqgan", "vqgan_folder", type=click.Path(path_type=Path), required=True, help="trained VQGAN")
def unclip(data: Path, out: Path, minutes: float | None, steps: int | None, device: str | None, batch: int | None,
           resume: bool, sets: tuple[str, ...], clip_folder: Path, vqgan_folder: Path) -> None:  # fmt: skip
    """Train unCLIP's prior and decoder."""
    from worker.checkpoints.loading import open_folder
    from worker.training.loop import Budget
    from worker.training.recipes.unclip import UnclipRecipe, train_unclip
    from worker.training.recipes.vectors import Frozen

    vectors: Any = open_folder("clip", clip_folder, data / "tokenizer.json")
    codes: Any = open_folder("vqgan", vqgan_folder)
    recipe = changed(UnclipRecipe(), batch, sets)
    train_unclip(data, out, Frozen(vectors, codes), recipe, Budget(minutes, steps), pick_device(device), resume)


@train.command()
@click.option("--data", type=click.Path(path_type=Path), default=DATA, show_default=True, help="data set folder")
@click.option("--models", "folder", type=click.Path(path_type=Path), help="folder of clip, vqgan, dalle, unclip, judge;"
              " default: the embedded models")  # fmt: skip
@click.option("--device", default=None)
@click.option("--names", default=200, show_default=True, help="names of common things that are drawn and judged: fewer"
              " are faster, 0 draws none")  # fmt: skip
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
@click.option("--data", type=click.Path(path_type=Path), default=DATA, show_default=True, help="data set folder")
@click.option("--models", "folder", type=click.Path(path_type=Path), help="default: the embedded models")
@click.option("--device", default=None)
@click.option("--runs", multiple=True, type=click.Path(path_type=Path), help="output folder of a stage: its curves")
@click.option("--bench", type=click.Path(path_type=Path), default=Path("out/bench.jsonl"), show_default=True,
              help="where the seconds per job are from")  # fmt: skip
@click.option("--share", default=1.0, show_default=True, help="of the fixed prompts; 0 draws none of them")
@click.option("--only", multiple=True, type=click.Choice(["dalle", "unclip", "vqgan_clip"]), help="sheets of this kind")
@click.option("--out", type=click.Path(path_type=Path), default=Path("worker/weights"), show_default=True,
              help="folder of MODEL_CARD.md and figures.json; the pictures go into its folder pictures")  # fmt: skip
def card(data: Path, folder: Path | None, device: str | None, runs: tuple[Path, ...], bench: Path, share: float,
         only: tuple[str, ...], out: Path) -> None:  # fmt: skip
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
@click.option("--models", "folder", type=click.Path(path_type=Path), required=True,
              help="folder of clip, vqgan, dalle, unclip, judge")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), default=DATA, show_default=True, help="data set folder")
@click.option("--out", type=click.Path(path_type=Path), default=Path("worker/weights"), show_default=True)
def export(folder: Path, data: Path, out: Path) -> None:
    """Copy trained models into a weights folder and write its registry with digests."""
    from worker.training.export import export_models

    for name, size in export_models(folder, data / "tokenizer.json", out).items():
        click.echo(f"{name:20} {size / 1e6:7.2f} MB")


@train.command()
@click.option("--data", type=click.Path(path_type=Path), default=DATA, show_default=True, help="data set folder")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("deploy/pictures/openmoji.zip"),
              show_default=True)  # fmt: skip
def openmoji(data: Path, out: Path) -> None:
    """Write the archive of pictures that `dreamqueue index --openmoji` puts into a collection."""
    from worker.training.data.openmoji import build_archive

    click.echo(f"{build_archive(data, out):,} pictures, {out.stat().st_size / 1e6:.2f} MB: {out}")


@train.command()
@click.option("--data", type=click.Path(path_type=Path), default=DATA, show_default=True, help="data set folder")
@click.option("--model", "model_id", default="emoji-clip", show_default=True, help="a CLIP of the registry")
@click.option("--weights", default="", help="folder of registry.json; the shipped one if left out")
def calibrate(data: Path, model_id: str, weights: str) -> None:
    """Fit what turns a search's cosines into probabilities; prints the registry's `calibration`."""
    import json
    from dataclasses import astuple

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
