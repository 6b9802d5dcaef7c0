"""What CLIP sees: `rank` orders pictures by one prompt, `classify` gives every picture's likeliest labels.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021), section 3.1:
zero-shot classification with a softmax over ensembled prompt templates.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.specs import ClassifySpec, RankSpec
from worker.engines.base import Model, Monitor, Output, Task
from worker.engines.device import Device
from worker.engines.embeddings import Embedder
from worker.engines.library import ModelLibrary

__all__ = ["ClipEngine"]


class ClipEngine:
    """Serves both kinds with every CLIP of the library."""

    kinds: tuple[str, ...] = ("rank", "classify")
    resumes = False  # over in seconds

    def __init__(self, library: ModelLibrary, device: Device, embedder: Embedder) -> None:
        self._library = library
        self._embedder = embedder
        self.device_name = device.name

    def load(self) -> list[Model]:
        """See Engine."""
        return self._library.describe(*self._library.load_family("clip"))

    def run(self, task: Task, monitor: Monitor) -> Output:
        """See Engine."""
        started_at = time.monotonic()
        spec = task.spec
        if isinstance(spec, RankSpec):
            data = self._rank(spec, task, monitor)
        else:
            assert isinstance(spec, ClassifySpec)
            data = self._classify(spec, task, monitor)
        return Output(
            data=data,
            parameters=spec.model_dump(exclude={"kind", "images"}),
            models=self._library.describe(spec.model),
            timings={"embed_s": time.monotonic() - started_at},
        )

    def _rank(self, spec: RankSpec, task: Task, monitor: Monitor) -> dict[str, Any]:
        text = self._embedder.texts(spec.model, spec.all_prompts)
        scores = (self._images(spec.model, task, spec.images, monitor) @ text[0]).tolist()
        order = sorted(range(len(scores)), key=lambda number: -scores[number])
        return {
            "scores": [
                {"image": ref, "score": round(score, 6)} for ref, score in zip(spec.images, scores, strict=True)
            ],
            "order": [spec.images[number] for number in order],
        }

    def _classify(self, spec: ClassifySpec, task: Task, monitor: Monitor) -> dict[str, Any]:
        classes = self._classes(spec, monitor)
        vectors = self._images(spec.model, task, spec.images, monitor)
        scale = self._library.clip(spec.model).logit_scale
        chances, places = (scale * vectors @ classes.T).softmax(1).topk(min(spec.top_k, len(spec.labels)), dim=1)
        return {
            "classifications": [
                {
                    "image": ref,
                    "labels": [
                        {"label": spec.labels[place], "probability": round(chance, 6)}
                        for chance, place in zip(row, columns, strict=True)
                    ],
                }
                for ref, row, columns in zip(spec.images, chances.tolist(), places.tolist(), strict=True)
            ]
        }

    def _classes(self, spec: ClassifySpec, monitor: Monitor) -> Tensor:
        """One unit vector per label: the normalised mean over the templates."""
        total = None
        for template in spec.templates:
            texts = [template.replace("{}", label) for label in spec.labels]
            rows = self._embedder.texts(spec.model, texts, monitor)
            total = rows if total is None else total + rows
        assert total is not None
        return F.normalize(total, dim=-1)

    def _images(self, model: str, task: Task, refs: list[str], monitor: Monitor) -> Tensor:
        distinct = list(dict.fromkeys(refs))
        rows = self._embedder.images(model, [task.images[ref] for ref in distinct], monitor)
        place = {ref: number for number, ref in enumerate(distinct)}
        return rows[torch.tensor([place[ref] for ref in refs], device=rows.device)]
