"""A registry entry to a model, and a model to a folder: safetensors and JSON only, names and shapes checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worker.checkpoints.errors import BadRegistry, KeyMismatch
from worker.checkpoints.registry import ModelEntry
from worker.models.clip.clip import Clip
from worker.models.dalle.dalle import Dalle, DalleConfig
from worker.models.dalle.dalle_bart import FORM, DalleBart, DalleBartConfig
from worker.models.text import CaptionTokenizer
from worker.models.unclip.unclip import Unclip, UnclipConfig
from worker.models.vqgan.vqgan import VQGAN, VQGANConfig

Model = VQGAN | Dalle | DalleBart | Unclip | Clip
CONFIG, WEIGHTS = "config.json", "model.safetensors"
CLIP_CONFIG, CLIP_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


def load_model(entry: ModelEntry, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    """The entry's model on `device` in `dtype`, in eval mode, its weights frozen; files are verified first."""
    entry.verify()
    model = _BUILDERS[entry.family](entry)
    load_weights(_bearer(model), entry.folder / entry.weights)
    return model.to(device=device, dtype=dtype).eval().requires_grad_(False)


def open_folder(family: str, folder: Path, tokenizer: Path | None = None, device: torch.device | str = "cpu") -> Model:
    """A model that `save_model` wrote, without a registry and so without digests: for training and measuring."""
    config, weights = (CLIP_CONFIG, CLIP_WEIGHTS) if family == "clip" else (CONFIG, WEIGHTS)
    entry = ModelEntry(
        id=folder.name, family=family, folder=folder, config=config, weights=weights, sha256={}, dtype="float16",
        params=0, source="", licence="", pool="", tokenizer=tokenizer,
    )  # fmt: skip
    model = _BUILDERS[family](entry)
    load_weights(_bearer(model), folder / weights)
    return model.to(device).eval().requires_grad_(False)


def load_tokenizer(entry: ModelEntry) -> CaptionTokenizer:
    """The caption tokenizer of a clip or dalle entry."""
    if entry.tokenizer is None:
        raise BadRegistry(f"model {entry.id} names no tokenizer")
    return CaptionTokenizer.load(entry.tokenizer)


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill a module from a safetensors file; KeyMismatch unless names and shapes are exactly the module's."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadRegistry(f"cannot read weights {path}: {error}") from error
    own = {name: tensor.shape for name, tensor in module.state_dict().items() if name not in tied(module)}
    theirs = {name: tensor.shape for name, tensor in tensors.items()}
    wrong = sorted(name for name in own.keys() | theirs.keys() if own.get(name) != theirs.get(name))
    if wrong:
        shown = ", ".join(f"{name} (model {own.get(name)}, file {theirs.get(name)})" for name in wrong[:5])
        raise KeyMismatch(f"{path}: {len(wrong)} of {len(own)} weights differ: {shown}")
    module.load_state_dict(tensors, strict=False)


def tied(module: nn.Module) -> set[str]:
    """Names of weights that are another weight under a second name: a file holds them once."""
    seen: dict[int, str] = {}
    again: set[str] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, nn.Parameter):
            if id(tensor) in seen:
                again.add(name)
            seen.setdefault(id(tensor), name)
    return again


def save_model(model: Model, folder: Path, dtype: torch.dtype = torch.float16) -> int:
    """Write config and weights (floating ones as `dtype`); the number of parameters written."""
    folder.mkdir(parents=True, exist_ok=True)
    config, weights = (CLIP_CONFIG, CLIP_WEIGHTS) if isinstance(model, Clip) else (CONFIG, WEIGHTS)
    values: Mapping[str, Any] = model.config if isinstance(model, Clip) else model.config.to_dict()
    (folder / config).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    bearer = _bearer(model)
    skipped = tied(bearer)
    tensors: dict[str, Tensor] = {}
    for name, tensor in bearer.state_dict().items():
        if name not in skipped:
            kept = tensor.to(dtype) if tensor.is_floating_point() else tensor
            tensors[name] = kept.detach().cpu().contiguous()
    save_file(tensors, folder / weights)
    return sum(tensor.numel() for tensor in tensors.values())


def _bearer(model: Model) -> nn.Module:
    """The module whose names the file has: open_clip's own network for a Clip, so that open_clip reads the folder."""
    return model.network if isinstance(model, Clip) else model


def _read_config(entry: ModelEntry) -> dict[str, Any]:
    path = entry.folder / entry.config
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadRegistry(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise BadRegistry(f"{path} holds no object")
    return values


def _dalle(entry: ModelEntry) -> Dalle | DalleBart:
    """Either form, as the configuration says."""
    values = _read_config(entry)
    if values.get("form") == FORM:
        with torch.device("meta"):  # up to 2.6 billion weights: not worth a random value each before they are read
            model = DalleBart(DalleBartConfig.from_dict(values))
        return model.to_empty(device="cpu")
    return Dalle(DalleConfig.from_dict(values))


_BUILDERS: Mapping[str, Callable[[ModelEntry], Model]] = {
    "vqgan": lambda entry: VQGAN(VQGANConfig.from_dict(_read_config(entry))),
    "dalle": _dalle,
    "unclip": lambda entry: Unclip(UnclipConfig.from_dict(_read_config(entry))),
    "clip": lambda entry: Clip(_read_config(entry), load_tokenizer(entry)),
}
