"""What `train eval` prints: every figure, and contact sheets if asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worker.checkpoints.loading import load_model, open_folder
from worker.checkpoints.registry import ModelRegistry
from worker.models.clip import Clip
from worker.models.text import CaptionTokenizer
from worker.models.vqgan_clip import Recipe
from worker.training.data import Pictures
from worker.training.eval import measure_dalle, measure_models, measure_vqgan_clip
from worker.training.generate import Models, Sampling, common_names, sheet

SHEET_PROMPTS = (
    "a red apple", "a slice of pizza", "a cat face", "a rocket", "a yellow sun", "a blue heart", "a tree", "a pumpkin",
    "a banana", "a house", "a car", "a fish", "a snowman", "a crown", "a guitar", "a rose", "an elephant",
    "a strawberry",
    "a blue car", "a green bird", "a purple flower", "a red house", "a key", "a soccer ball",
)  # fmt: skip


def open_models(folder: Path | None, device: torch.device) -> tuple[Models, Clip | None]:
    """The embedded models (folder None) or freshly trained ones, and the judge if it is there."""
    found: dict[str, Any] = {}
    if folder is None:
        registry = ModelRegistry.load()
        for entry in registry.entries.values():
            found[entry.id.removeprefix("emoji-")] = load_model(entry, device)
        tokenizer = found["clip"].tokenizer
    else:
        path = folder / "tokenizer.json"
        tokenizer = CaptionTokenizer.load(path)
        for name, family in (("clip", "clip"), ("vqgan", "vqgan"), ("dalle", "dalle"), ("judge", "clip")):
            if (folder / name).is_dir():
                found[name] = open_folder(family, folder / name, path, device)
    return Models(found["clip"], found["vqgan"], found.get("dalle"), tokenizer), found.get("judge")


def report(data: Path, folder: Path | None, device: torch.device, names: int, sheets: Path | None) -> dict[str, float]:
    """All figures that the models at hand allow."""
    models, judge = open_models(folder, device)
    held_out = Pictures.held_out(data)
    figures = measure_models(models, held_out, judge)
    if not names or judge is None:
        return figures
    training = Pictures.training(data)
    wanted = common_names(training, names)
    if models.dalle is not None:
        settings = Sampling(guidance=models.dalle.config.guidance)
        found, best = measure_dalle(models, judge, held_out, wanted, settings)
        figures |= found
        _save(sheets, "dalle.png", best[:24, :8], wanted[:24])
    fewer = common_names(training, max(1, names // 4))
    dtype = torch.bfloat16 if device.type == "cpu" else None
    found, images = measure_vqgan_clip(models, judge, held_out, fewer, Recipe(), autocast=dtype)
    figures |= found
    _save(sheets, "vqgan_clip.png", images[:24, None], fewer[:24])
    return figures


def _save(folder: Path | None, name: str, images: Tensor, labels: list[str]) -> None:
    if folder is not None:
        sheet(images, labels, folder / name, scale=2)
