"""Searches a collection: terms become one vector, the filter says which rows count, the nearest of them are the answer.

Exact where the collection is in this worker's memory, else by the index's own approximation.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import numpy as np

from shared.errors import InvalidInput
from shared.specs.clip import SearchSpec, SearchTerm
from worker.engines.base import Model, Output, RunContext, Task
from worker.engines.collection_access import OpenCollection
from worker.engines.embedding.embedder import Embedder
from worker.engines.library import ModelLibrary
from worker.engines.options import EngineParts, SearchEvents
from worker.engines.scheduling.device import Device
from worker.engines.search.indexing import Quiet
from worker.engines.search.rows import check_model
from worker.engines.search.scores import Scale, scale_of
from worker.engines.search.stages import StageClock
from worker.vectors.index import Vectors, VectorTable
from worker.vectors.memory.question import Page, Question
from worker.vectors.memory.ranking import rank_snapshot, rank_table
from worker.vectors.memory.snapshot import Snapshot

__all__ = ["SearchEngine", "build"]

SAMPLES = 16  # large tables whose usual cosines are remembered
SAMPLE_S = 300.0  # so long
LEAST_LENGTH = 1e-4  # of a sum of unit vectors: shorter, its terms say nothing together


class SearchEngine:
    """Serves `search` with every CLIP of the library."""

    resumes = False  # over in milliseconds

    def __init__(self, library: ModelLibrary, device: Device, embedder: Embedder, events: SearchEvents) -> None:
        self._library = library
        self._embedder = embedder
        self._events = events
        self._samples = _Samples()
        self.device_name = device.name

    def load(self) -> list[Model]:
        """See Engine."""
        return self._library.describe(*self._library.load_family("clip"))

    def run(self, task: Task[SearchSpec], context: RunContext) -> Output:
        """See Engine."""
        spec = task.spec
        clock = StageClock("search", self._events)
        collection = task.needed_collections.open(spec.collection)
        model = collection.record.model
        check_model(self._library, collection)
        page, scale = Page([], 0, 0), None
        if collection.record.width:
            query = self._query(task, collection, clock, context)
            page, scale = self._page(spec, query, collection, clock)
        return Output(
            data={
                "collection": spec.collection,
                "model": model,
                "hits": [
                    {
                        "id": hit.id,
                        "cosine": round(hit.cosine, 6),
                        "score": round(scale.score(hit.cosine), 6) if scale else None,
                        "metadata": dict(hit.metadata),
                        "added_at_ms": hit.added_at_ms,
                    }
                    for hit in page.hits
                ],
                "matching": page.matching,
                "rows": page.rows,
                "next_cursor": page.next_cursor,
                "truncated_texts": self._truncated(spec, model),
            },
            parameters={"collection": spec.collection, "limit": spec.limit},
            models=self._library.describe(model),
            timings=clock.timings,
        )

    # --- the query -----------------------------------------------------------------------------------------------

    def _query(
        self, task: Task[SearchSpec], collection: OpenCollection, clock: StageClock, context: RunContext
    ) -> Vectors:
        """(D,), unit length: the weighted sum of the terms' unit vectors."""
        terms, model = task.spec.all_terms, collection.record.model
        found: dict[str, Vectors] = {}
        texts = [term.text for term in terms if term.text is not None]
        if texts:
            with clock.stage("text"):
                rows = self._embedder.texts(model, texts, Quiet(context)).float().cpu().numpy()
            found.update(zip(texts, rows, strict=True))
        refs = [term.image for term in terms if term.image is not None]
        if refs:
            with clock.stage("image"):
                images = [task.images[ref] for ref in refs]
                rows = self._embedder.images(model, images, Quiet(context)).float().cpu().numpy()
            found.update(zip(refs, rows, strict=True))
        found.update(_rows_named(terms, collection))
        total = np.zeros(collection.record.width, np.float32)
        for term in terms:
            total += np.float32(term.weight) * _vector(term, found, collection.record.width)
        length = float(np.linalg.norm(total))
        if length < LEAST_LENGTH:
            raise InvalidInput("the terms cancel each other out", field="terms")
        return total / np.float32(length)

    def _truncated(self, spec: SearchSpec, model: str) -> list[str]:
        """Texts longer than the model reads."""
        clip = self._library.clip(model)
        texts = [term.text for term in spec.all_terms if term.text is not None]
        cut = clip.tokenizer.encode(texts, clip.context_length, framed=True).truncated if texts else []
        return [text for text, was_cut in zip(texts, cut, strict=True) if was_cut]

    # --- the answer ----------------------------------------------------------------------------------------------

    def _page(
        self, spec: SearchSpec, query: Vectors, collection: OpenCollection, clock: StageClock
    ) -> tuple[Page, Scale]:
        logit_scale = self._library.clip(collection.record.model).logit_scale
        asked = json.dumps([collection.record.fingerprint, [term.model_dump() for term in spec.all_terms]])
        question = Question(
            query, spec.limit, spec.filter, spec.cursor, spec.min_cosine, spec.dedup, spec.diversity, logit_scale, asked
        )
        with clock.stage("refresh"):
            snapshot = collection.snapshot()
        with clock.stage("rank"):
            page = self._ranked(collection, snapshot, question)
            scale = self._scale(spec, collection, logit_scale, page)
            if spec.min_score is not None and spec.diversity:  # what is too low must not be chosen for its difference
                low = scale.least_cosine(spec.min_score)
                least = max(low, -1.0 if spec.min_cosine is None else spec.min_cosine)
                page = self._ranked(collection, snapshot, replace(question, min_cosine=least))
        return _cut(page, scale, spec.min_score), scale

    def _ranked(self, collection: OpenCollection, snapshot: Snapshot | None, question: Question) -> Page:
        columns = collection.record.columns
        if snapshot is not None:
            return rank_snapshot(snapshot, columns, question)
        table = collection.table
        return rank_table(table, columns, question, self._samples.of(collection.record.table, table))

    def _scale(self, spec: SearchSpec, collection: OpenCollection, logit_scale: float, page: Page) -> Scale:
        entry = self._library.entry(collection.record.model, "clip")
        by_text = any(term.text is not None for term in spec.all_terms)
        return scale_of(entry, logit_scale, page.background or 0.0, page.rows, by_text=by_text)


def _cut(page: Page, scale: Scale, min_score: float | None) -> Page:
    """Without hits below the least score; those are the last ones, and no page follows them."""
    if min_score is None:
        return page
    hits = [hit for hit in page.hits if scale.score(hit.cosine) >= min_score]
    return replace(page, hits=hits, next_cursor=page.next_cursor if len(hits) == len(page.hits) else None)


def _rows_named(terms: list[SearchTerm], collection: OpenCollection) -> dict[str, Vectors]:
    ids = [term.id for term in terms if term.id is not None]
    if not ids:
        return {}
    rows = collection.table.get(ids, collection.record.columns)
    for row_id in ids:
        if row_id not in rows:
            raise InvalidInput(f"the collection has no picture {row_id}", field="terms")
    return {row_id: row.vector for row_id, row in rows.items()}


def _vector(term: SearchTerm, found: dict[str, Vectors], width: int) -> Vectors:
    if term.embedding is None:
        return found[term.text or term.image or term.id or ""]
    if len(term.embedding) != width:
        raise InvalidInput(
            f"an embedding has {len(term.embedding)} numbers", field="terms", limit=f"{width}, as the collection's"
        )
    vector = np.asarray(term.embedding, np.float64)
    unit: Vectors = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit


class _Samples:
    """Some rows of tables too large for memory, by which a query's usual cosine is guessed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cached: OrderedDict[str, tuple[float, Vectors]] = OrderedDict()

    def of(self, name: str, table: VectorTable) -> Vectors | None:
        """(M, D) of one batch of rows."""
        now = time.monotonic()
        with self._lock:
            cached = self._cached.get(name)
        if cached is not None and now - cached[0] < SAMPLE_S:
            return cached[1]
        rows: list[Any] = next(table.scan({}), [])
        if not rows:
            return None
        vectors: Vectors = np.stack([row.vector for row in rows])
        with self._lock:
            self._cached[name] = (now, vectors)
            while len(self._cached) > SAMPLES:
                self._cached.popitem(last=False)
        return vectors


def build(parts: EngineParts) -> SearchEngine:
    """The engine, as the table of kinds names it."""
    return SearchEngine(parts.library, parts.device, parts.embedder, parts.options.search_events)
