"""What `train eval` finds, and the document it writes: figures with all that is needed to take them again."""

from __future__ import annotations

import datetime
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worker.checkpoints.loading import CLIP_WEIGHTS, WEIGHTS, load_model, open_folder
from worker.checkpoints.registry import ModelRegistry, digest
from worker.models.clip.clip import Clip
from worker.training.data.pictures import HELD_OUT, TRAIN, Pictures
from worker.training.evaluation import eval as measures
from worker.training.evaluation.eval import Findings, Say, draw_all, measure_drawings, measure_models, names_for
from worker.training.evaluation.generate import Models
from worker.training.evaluation.measure import FIGURES
from worker.training.export import FAMILIES


@dataclass(frozen=True, slots=True)
class Opened:
    """Models by name (clip, vqgan, dalle, ...) and the sha256 of their weights."""

    found: Mapping[str, Any]
    digests: Mapping[str, str]

    @property
    def models(self) -> Models:
        """What draws."""
        clip: Clip = self.found["clip"]
        return Models(clip, self.found["vqgan"], self.found.get("dalle"), clip.tokenizer, self.found.get("unclip"))

    @property
    def judge(self) -> Clip | None:
        """What only judges."""
        return self.found.get("judge")


def open_models(folder: Path | None, device: torch.device) -> Opened:
    """The embedded models (folder None) or freshly trained ones."""
    found, digests = dict[str, Any](), dict[str, str]()
    if folder is None:
        for entry in ModelRegistry.load().entries.values():
            name = entry.id.removeprefix("emoji-")
            found[name], digests[name] = load_model(entry, device), entry.sha256[entry.weights]
        return Opened(found, digests)
    path = folder / "tokenizer.json"
    for name, family in FAMILIES.items():
        if (folder / name).is_dir():
            found[name] = open_folder(family, folder / name, path, device)
            digests[name] = digest(folder / name / (CLIP_WEIGHTS if family == "clip" else WEIGHTS))
    return Opened(found, digests)


def report(data: Path, opened: Opened, names: int, say: Say) -> dict[str, Any]:
    """All figures that the models at hand allow, as `train eval --json` writes them."""
    started_at = time.monotonic()
    models, judge, held_out = opened.models, opened.judge, Pictures.held_out(data)
    findings = Findings(measure_models(models, held_out, judge))
    able = [one for one in measures.GENERATORS if opened.found.get(one.model) is not None]
    if not names or judge is None:
        able = []
    wanted: dict[str, list[str]] = {}
    if able and judge is not None:
        training = Pictures.training(data)
        wanted = {one.kind: names_for(training, names, one) for one in able}
        drawings = draw_all(models, able, list(wanted.values()), say)
        findings.figures |= measure_drawings(drawings, models, judge, held_out)
    findings.explain(opened.found, names)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "minutes": round((time.monotonic() - started_at) / 60, 1),
        "machine": machine(models.clip.mean.device),
        "seed": measures.SEED,
        "settings": {
            "names": names,
            "names_by_kind": {kind: len(own) for kind, own in wanted.items()},
            "best_of": measures.CHOSEN_FROM,
            "dalle": {"temperature": measures.TEMPERATURE, "top_k": measures.TOP_K},
            "vqgan_clip": {"iterations": measures.ITERATIONS},
        },
        "data": {name: digest(data / name) for name in (TRAIN, HELD_OUT)},
        "weights": dict(opened.digests),
        "figures": {name: round(value, 3) for name, value in findings.figures.items()},
        "not_measured": findings.missing,
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Where a figure was taken."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else next(models, platform.machine())
    return {
        "device": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def table(document: Mapping[str, Any]) -> list[str]:
    """The document's figures for a terminal: those of the table first, each with its target, then the others."""
    figures, missing = document["figures"], document["not_measured"]
    out = []
    for name, figure in FIGURES.items():
        if name in figures:
            met = "ok" if figure.is_met(figures[name]) else "MISSED"
            out.append(f"{name:28} {figures[name]:9.2f} {figure.unit:3} {figure.target:10} {met}")
        elif name in missing:
            out.append(f"{name:28} {'-':>9} {figure.unit:3} {figure.target:10} NOT MEASURED: {missing[name]}")
    return out + [f"{name:28} {value:9.2f}" for name, value in figures.items() if name not in FIGURES]


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """As JSON that diffs well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
