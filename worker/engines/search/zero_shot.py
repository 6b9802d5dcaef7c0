"""Zero-shot classification, of pictures named in the job or of a whole collection.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021), section 3.1: a
softmax over ensembled prompt templates, at the model's own logit scale. The sets of templates are those of the paper's
notebook, as open_clip ships them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from open_clip import zero_shot_metadata
from torch import Tensor

from shared.specs.clip import ClassifySpec
from worker.engines.base import RunContext
from worker.engines.embedding.embedder import Embedder
from worker.engines.search.rows import csv_file, json_file

__all__ = ["MAX_LISTED", "OTHER", "classes", "classified", "listed", "templates_of"]

OTHER = "other"  # a picture whose best label is too unlikely
ROWS = 8_192  # pictures compared with all labels at once
MAX_LISTED = 100  # pictures of a collection in the result; all are in the files
SETS = {
    "imagenet_80": zero_shot_metadata.OPENAI_IMAGENET_TEMPLATES,
    "imagenet_7": zero_shot_metadata.SIMPLE_IMAGENET_TEMPLATES,
}


def templates_of(spec: ClassifySpec) -> list[str]:
    """Texts with one {} for the label."""
    if isinstance(spec.templates, str):
        return [template("{}") for template in SETS[spec.templates]]
    return spec.templates


def classes(spec: ClassifySpec, model: str, embedder: Embedder, context: RunContext) -> Tensor:
    """(labels, D): one unit vector per label, the normalised mean over the templates."""

    def by(template: str) -> Tensor:
        return embedder.texts(model, [template.replace("{}", label) for label in spec.labels], context)

    return F.normalize(reduce(torch.add, map(by, templates_of(spec))), dim=-1)


def classified(
    spec: ClassifySpec, refs: Sequence[str], vectors: Tensor, among: Tensor, scale: float, context: RunContext
) -> list[dict[str, Any]]:
    """Each picture's likeliest labels, best first. `vectors` (N, D) and `among` (labels, D) are unit vectors."""
    found: list[dict[str, Any]] = []
    for begin in range(0, len(refs), ROWS):
        part = vectors[begin : begin + ROWS].to(among)
        chances, places = (scale * part @ among.T).softmax(1).topk(min(spec.top_k, len(spec.labels)), dim=1)
        for ref, row, columns in zip(refs[begin : begin + ROWS], chances.tolist(), places.tolist(), strict=True):
            labels = [
                {"label": spec.labels[place], "probability": round(chance, 6)}
                for chance, place in zip(row, columns, strict=True)
            ]
            is_other = spec.other_below is not None and row[0] < spec.other_below
            found.append({"image": ref, "label": OTHER if is_other else labels[0]["label"], "labels": labels})
        context.progress("classify", min(begin + ROWS, len(refs)), len(refs))
    return found


def listed(
    found: Sequence[dict[str, Any]], limit: int | None = None
) -> tuple[dict[str, Any], dict[str, tuple[bytes, str]]]:
    """Data and files: counts by label and pictures (the first `limit`), all of them as JSON and as CSV."""
    counts = Counter(item["label"] for item in found)
    lines = [
        [item["image"], item["label"], item["labels"][0]["label"], item["labels"][0]["probability"]] for item in found
    ]
    files = {
        "classifications.json": json_file(list(found)),
        "classifications.csv": csv_file(["image", "label", "best_label", "probability"], lines),
    }
    return {"classifications": list(found[:limit]), "counts": dict(counts.most_common()), "pictures": len(found)}, files
