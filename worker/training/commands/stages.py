"""The stages that train a model: clip, vqgan, dalle, unclip."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.training.commands.group import data_option, device_option, pick_device, train

if TYPE_CHECKING:
    from worker.training.loop import Plan

TOKENIZER = "tokenizer.json"

STAGE_OPTIONS = (
    data_option,
    click.option("--out", type=click.Path(path_type=Path), required=True, help="output folder"),
    click.option("--minutes", type=float, help="time budget"),
    click.option("--steps", type=int, help="step budget"),
    device_option,
    click.option("--batch", type=int, help="pictures per step"),
    click.option("--resume", is_flag=True, help="go on from the checkpoint in --out"),
    click.option("--set", "sets", multiple=True, metavar="NAME=VALUE", help="change one number of the recipe"),
)


@dataclass(frozen=True)
class Stage:
    """What every stage is told."""

    data: Path
    out: Path
    minutes: float | None
    steps: int | None
    device: str | None
    batch: int | None
    resume: bool
    sets: tuple[str, ...]

    def plan(self) -> Plan:
        """Where, for how long, and on which device."""
        from worker.training.loop import Budget, Plan

        return Plan(self.data, self.out, Budget(self.minutes, self.steps), pick_device(self.device), self.resume)

    def recipe(self, base: Any) -> Any:
        """A recipe with some of its fields replaced, each read as JSON."""
        values = {name: json.loads(value) for name, _, value in (item.partition("=") for item in self.sets)}
        if self.batch:
            values["batch"] = self.batch
        return replace(base, **values)

    def tokenizer(self) -> Any:
        """The data set's caption tokenizer."""
        from worker.models.text import CaptionTokenizer

        return CaptionTokenizer.load(self.data / TOKENIZER)


def stage(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every training stage has; the command gets them as its first argument."""

    @functools.wraps(command)
    def run(**options: Any) -> Any:
        own = {field.name: options.pop(field.name) for field in fields(Stage)}
        return command(Stage(**own), **options)

    for option in reversed(STAGE_OPTIONS):
        option(run)
    return run


@train.command()
@stage
@click.option("--judge", is_flag=True, help="the model that only judges: another tower, seed and augmentation")
def clip(run: Stage, judge: bool) -> None:
    """Train CLIP."""
    from worker.training.recipes.clip import JUDGE, ClipRecipe, train_clip

    recipe = run.recipe(JUDGE if judge else ClipRecipe())
    train_clip(run.plan(), run.tokenizer(), recipe)


@train.command()
@stage
@click.option("--clip", "clip_folder", type=click.Path(path_type=Path), help="CLIP whose features the loss compares")
def vqgan(run: Stage, clip_folder: Path | None) -> None:
    """Train VQGAN."""
    from worker.checkpoints.loading import open_folder
    from worker.training.recipes.vqgan import VQGANRecipe, train_vqgan

    features: Any = open_folder("clip", clip_folder, run.data / TOKENIZER) if clip_folder else None
    recipe = run.recipe(VQGANRecipe())
    train_vqgan(run.plan(), features, recipe)


@train.command()
@stage
@click.option("--vqgan", "vqgan_folder", type=click.Path(path_type=Path), required=True, help="trained VQGAN")
@click.option("--compile", "compiled", is_flag=True, help="torch.compile: pays on runs of several minutes on CUDA")
def dalle(run: Stage, vqgan_folder: Path, compiled: bool) -> None:
    """Train the DALL-E transformer."""
    from worker.checkpoints.loading import open_folder
    from worker.training.recipes.dalle import DalleRecipe, train_dalle

    codes: Any = open_folder("vqgan", vqgan_folder)
    recipe = run.recipe(DalleRecipe())
    train_dalle(run.plan(), codes, run.tokenizer(), recipe, compiled)


@train.command()
@stage
@click.option("--clip", "clip_folder", type=click.Path(path_type=Path), required=True, help="trained CLIP")
@click.option("--vqgan", "vqgan_folder", type=click.Path(path_type=Path), required=True, help="trained VQGAN")
def unclip(run: Stage, clip_folder: Path, vqgan_folder: Path) -> None:
    """Train unCLIP's prior and decoder."""
    from worker.checkpoints.loading import open_folder
    from worker.training.recipes.unclip import UnclipRecipe, train_unclip
    from worker.training.recipes.vectors import Frozen

    vectors: Any = open_folder("clip", clip_folder, run.data / TOKENIZER)
    codes: Any = open_folder("vqgan", vqgan_folder)
    recipe = run.recipe(UnclipRecipe())
    train_unclip(run.plan(), Frozen(vectors, codes), recipe)
