"""A registry of models with random weights, small enough to run in milliseconds, under the shipped models' ids."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.models.conftest import SMALL_VQGAN, TINY_DALLE, tiny_clip_config, tiny_tokenizer, tiny_unclip
from worker.checkpoints.loading import CLIP_CONFIG, CLIP_WEIGHTS, CONFIG, WEIGHTS, save_model
from worker.checkpoints.registry import digest
from worker.models.clip.clip import Clip
from worker.models.dalle.dalle import Dalle
from worker.models.text import CaptionTokenizer
from worker.models.unclip.unclip import Unclip
from worker.models.vqgan.vqgan import VQGAN

__all__ = ["write_tiny_models"]

TOKENIZER = "tokenizer.json"


def write_tiny_models(folder: Path) -> Path:
    """Write them; the folder, for EngineOptions.weights_dir."""
    torch.manual_seed(7)
    folder.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer().save(str(folder / TOKENIZER))
    tokenizer = CaptionTokenizer.load(folder / TOKENIZER)
    models = {
        "emoji-clip": Clip(tiny_clip_config(), tokenizer),
        "emoji-vqgan": VQGAN(SMALL_VQGAN),
        "emoji-dalle": Dalle(TINY_DALLE),
        "emoji-unclip": tiny_unclip(),
    }
    rows = []
    for model_id, model in models.items():
        assert isinstance(model, Clip | VQGAN | Dalle | Unclip)
        save_model(model, folder / model_id, torch.float32)
        rows.append(_row(folder, model_id, model_id.removeprefix("emoji-")))
    (folder / "registry.json").write_text(json.dumps({"models": rows}))
    return folder


def _row(folder: Path, model_id: str, family: str) -> dict[str, object]:
    config, weights = (CLIP_CONFIG, CLIP_WEIGHTS) if family == "clip" else (CONFIG, WEIGHTS)
    sha256 = {name: digest(folder / model_id / name) for name in (config, weights)}
    row: dict[str, object] = {
        "id": model_id, "family": family, "folder": model_id, "config": config, "weights": weights, "sha256": sha256,
        "dtype": "float32", "params": 1, "source": "tests", "licence": "Apache-2.0", "pool": "default",
    }  # fmt: skip
    if family in ("clip", "dalle"):
        sha256[TOKENIZER] = digest(folder / TOKENIZER)
        row["tokenizer"] = TOKENIZER
    if family != "clip":
        row["clip"] = "emoji-clip"
    if family in ("dalle", "unclip"):
        row["vqgan"] = "emoji-vqgan"
    return row
