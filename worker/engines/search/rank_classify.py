"""What CLIP sees: `rank` orders pictures by prompts, `classify` gives every picture's likeliest labels."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from shared.specs.clip import ClassifySpec, RankSpec
from worker.engines.base import Model, Output, RunContext, Task
from worker.engines.collection_access import OpenCollection
from worker.engines.embedding.embedder import Embedder
from worker.engines.library import ModelLibrary
from worker.engines.options import EngineParts
from worker.engines.scheduling.device import Device
from worker.engines.search.rows import check_model, chosen
from worker.engines.search.zero_shot import MAX_LISTED, classes, classified, listed

__all__ = ["ClipEngine", "build"]


class ClipEngine:
    """Serves both kinds with every CLIP of the library."""

    resumes = False  # over in seconds

    def __init__(self, library: ModelLibrary, device: Device, embedder: Embedder) -> None:
        self._library = library
        self._embedder = embedder
        self.device_name = device.name

    def load(self) -> list[Model]:
        """See Engine."""
        return self._library.describe(*self._library.load_family("clip"))

    def run(self, task: Task[RankSpec | ClassifySpec], context: RunContext) -> Output:
        """See Engine."""
        started_at = time.monotonic()
        spec = task.spec
        files: dict[str, tuple[bytes, str]] = {}
        model = spec.model
        if isinstance(spec, RankSpec):
            data = self._rank(spec, task.images, context)
        elif spec.collection is None:
            data, files = listed(self._classify(spec, task.images, context))
        else:
            collection = task.needed_collections.open(spec.collection)
            model = collection.record.model
            data, files = self._classify_collection(spec, collection, context)
        return Output(
            data=data,
            files=files,
            parameters=spec.model_dump(mode="json", exclude={"kind", "images"}),
            models=self._library.describe(model),
            timings={"embed_s": time.monotonic() - started_at},
        )

    def _rank(self, spec: RankSpec, images: Mapping[str, Image], context: RunContext) -> dict[str, Any]:
        texts = self._embedder.texts(spec.model, spec.all_prompts, context)
        cosines = self._images(spec.model, images, spec.images, context) @ texts.T
        chances = (self._library.clip(spec.model).logit_scale * cosines).softmax(1)  # of the prompts, by picture
        rankings = [
            _ranking(spec.images, prompt, cosines[:, number].tolist(), chances[:, number].tolist())
            for number, prompt in enumerate(spec.all_prompts)
        ]
        if spec.prompt is None:
            return {"rankings": rankings}
        scores = [{"image": score["image"], "score": score["score"]} for score in rankings[0]["scores"]]
        return {"scores": scores, "order": rankings[0]["order"]}

    def _classify(self, spec: ClassifySpec, images: Mapping[str, Image], context: RunContext) -> list[dict[str, Any]]:
        among = classes(spec, spec.model, self._embedder, context)
        vectors = self._images(spec.model, images, spec.images, context)
        return classified(spec, spec.images, vectors, among, self._library.clip(spec.model).logit_scale, context)

    def _classify_collection(
        self, spec: ClassifySpec, collection: OpenCollection, context: RunContext
    ) -> tuple[dict[str, Any], dict[str, tuple[bytes, str]]]:
        """By the collection's own model and the vectors it holds: no picture is looked at again."""
        check_model(self._library, collection)
        model = collection.record.model
        ids, vectors = chosen(collection, spec.filter)
        among = classes(spec, model, self._embedder, context)
        scale = self._library.clip(model).logit_scale
        found = classified(spec, ids, torch.from_numpy(vectors), among, scale, context)
        data, files = listed(found, limit=MAX_LISTED)
        return {"collection": spec.collection, **data}, files

    def _images(self, model: str, images: Mapping[str, Image], refs: list[str], context: RunContext) -> Tensor:
        distinct = list(dict.fromkeys(refs))
        rows = self._embedder.images(model, [images[ref] for ref in distinct], context)
        place = {ref: number for number, ref in enumerate(distinct)}
        return rows[torch.tensor([place[ref] for ref in refs], device=rows.device)]


def _ranking(refs: list[str], prompt: str, scores: list[float], chances: list[float]) -> dict[str, Any]:
    """One prompt's. `probability`: that of this prompt among all of the job's, for this picture."""
    order = sorted(range(len(refs)), key=lambda number: -scores[number])
    return {
        "prompt": prompt,
        "scores": [
            {"image": ref, "score": round(score, 6), "probability": round(chance, 6)}
            for ref, score, chance in zip(refs, scores, chances, strict=True)
        ],
        "order": [refs[number] for number in order],
    }


def build(parts: EngineParts) -> ClipEngine:
    """The engine, as the table of kinds names it."""
    return ClipEngine(parts.library, parts.device, parts.embedder)
