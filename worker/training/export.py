"""Trained folders to a weights folder: copies, digests, registry."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from worker.checkpoints.loading import CLIP_CONFIG, CLIP_WEIGHTS, CONFIG, WEIGHTS, open_folder
from worker.checkpoints.registry import digest

FAMILIES = {"clip": "clip", "vqgan": "vqgan", "dalle": "dalle", "unclip": "unclip", "judge": "clip"}  # by folder
TOKENIZER = "tokenizer.json"
SOURCE = "trained by worker/training on openly licensed emoji sets; see MODEL_CARD.md"


def export_models(source: Path, tokenizer: Path, out: Path) -> dict[str, int]:
    """Write `out`; bytes per model. The judge comes along if it is in `source`."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(tokenizer, out / TOKENIZER)
    entries, sizes = [], {TOKENIZER: (out / TOKENIZER).stat().st_size}
    for name, family in FAMILIES.items():
        if not (source / name).is_dir():
            continue
        config, weights = (CLIP_CONFIG, CLIP_WEIGHTS) if family == "clip" else (CONFIG, WEIGHTS)
        target = out / f"emoji-{name}"
        target.mkdir(exist_ok=True)
        for file in (config, weights):
            shutil.copyfile(source / name / file, target / file)
        entry = _entry(name, family, target, config, weights, out / TOKENIZER)
        entries.append(entry)
        sizes[entry["id"]] = (target / weights).stat().st_size
    existing = {row["id"]: row for row in _entries_in(out / "registry.json")}
    for entry in entries:
        before = existing.get(entry["id"], {})
        if "calibration" in before and before["sha256"] == entry["sha256"]:
            entry["calibration"] = before["calibration"]  # of the same weights
    (out / "registry.json").write_text(json.dumps({"models": entries}, indent=2) + "\n", encoding="utf-8")
    return sizes


def _entries_in(registry: Path) -> list[dict[str, Any]]:
    return json.loads(registry.read_text(encoding="utf-8"))["models"] if registry.is_file() else []


def _entry(name: str, family: str, folder: Path, config: str, weights: str, tokenizer: Path) -> dict[str, Any]:
    model = open_folder(family, folder, tokenizer)
    digests = {file: digest(folder / file) for file in (config, weights)}
    entry: dict[str, Any] = {
        "id": f"emoji-{name}",
        "family": family,
        "folder": folder.name,
        "config": config,
        "weights": weights,
        "sha256": digests,
        "dtype": "float16",
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "source": SOURCE,
        "licence": "Apache-2.0",
        "pool": "default" if name != "judge" else "none",
    }
    if family in ("clip", "dalle"):
        entry["tokenizer"] = tokenizer.name
        digests[tokenizer.name] = digest(tokenizer)
    if family in ("dalle", "unclip"):
        entry |= {"vqgan": "emoji-vqgan", "clip": "emoji-clip"}
    if family == "vqgan":
        entry["clip"] = "emoji-clip"
    return entry
