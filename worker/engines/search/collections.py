"""Keeps collections: puts pictures in, takes them out, sees them by another model, and says which are alike.

What is done stays done: an index job that is cancelled keeps what is in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from shared.specs.clip import GENERATED, DuplicatesSpec, GroupSpec, IndexSpec, ReembedSpec, RemoveSpec
from worker.engines.base import Model, Output, RunContext, Task, keeping
from worker.engines.collection_access import OpenCollection, TenantCollections
from worker.engines.embedding.embedder import Embedder
from worker.engines.library import ModelLibrary
from worker.engines.options import EngineParts, SearchEvents
from worker.engines.scheduling.device import Device
from worker.engines.search.indexing import Indexed, Indexing
from worker.engines.search.reembedding import reembed
from worker.engines.search.rows import check_model, chosen, csv_file, json_file
from worker.engines.search.stages import StageClock
from worker.vectors.index import Vectors
from worker.vectors.memory.groups import duplicate_sets, group

__all__ = ["CollectionEngine", "build"]

_Spec = IndexSpec | RemoveSpec | ReembedSpec | DuplicatesSpec | GroupSpec

MAX_LISTED_SETS = 100  # of near-duplicates, in the result; all are in the files
MAX_LISTED_IDS = 20  # of a group, nearest to its middle


class CollectionEngine:
    """Serves these kinds with every CLIP of the library."""

    resumes = True

    def __init__(self, library: ModelLibrary, device: Device, embedder: Embedder, events: SearchEvents) -> None:
        self._library = library
        self._embedder = embedder
        self._events = events
        self.device_name = device.name

    def load(self) -> list[Model]:
        """See Engine."""
        return self._library.describe(*self._library.load_family("clip"))

    def run(self, task: Task[_Spec], context: RunContext) -> Output:
        """See Engine."""
        spec, collections = task.spec, task.needed_collections
        if isinstance(spec, IndexSpec):
            return self._index(spec, collections, task.snapshot, context)
        collection = collections.open(spec.collection)
        if isinstance(spec, RemoveSpec):
            return self._remove(spec, collection)
        if isinstance(spec, ReembedSpec):
            return self._reembed(spec, collections, collection, context)
        if isinstance(spec, DuplicatesSpec):
            return self._duplicates(spec, collection, context)
        return self._group(spec, collection, context)

    # --- in and out ----------------------------------------------------------------------------------------------

    def _index(
        self, spec: IndexSpec, collections: TenantCollections, snapshot: bytes | None, context: RunContext
    ) -> Output:
        collection = self._opened(spec, collections)
        fingerprint = check_model(self._library, collection)
        clock = StageClock("index", self._events)
        width = self._library.clip(collection.record.model).width
        indexing = Indexing(collections, collection, self._embedder, fingerprint, width, clock)
        indexed = Indexed.resumed(snapshot, collection.record.id)
        with keeping(lambda: self._indexed(spec, collection, indexed, indexed.done, clock)):
            total = indexing.run(spec, indexed, context)
        return self._indexed(spec, collection, indexed, total, clock)

    def _opened(self, spec: IndexSpec, collections: TenantCollections) -> OpenCollection:
        if spec.collection == GENERATED:
            return collections.open_or_make(GENERATED, self._library.entries("clip")[0].id)
        return collections.open(spec.collection)

    def _indexed(
        self, spec: IndexSpec, collection: OpenCollection, indexed: Indexed, total: int, clock: StageClock
    ) -> Output:
        columns = ["item", "code", "message"]
        files = {"errors.csv": csv_file(columns, [[error[name] for name in columns] for error in indexed.errors])}
        return Output(
            data=indexed.result(spec.collection, total),
            files=files if indexed.errors else {},
            parameters=spec.model_dump(mode="json", exclude={"kind", "images"}),
            models=self._library.describe(collection.record.model),
            timings=clock.timings,
        )

    def _remove(self, spec: RemoveSpec, collection: OpenCollection) -> Output:
        removed = 0
        if collection.record.width:  # else nothing was ever in it
            removed = collection.remove(spec.ids) if spec.filter is None else collection.remove_where(spec.filter)
        return Output(
            data={"collection": spec.collection, "removed": removed},
            parameters=spec.model_dump(mode="json", exclude={"kind", "ids"}),
        )

    def _reembed(
        self, spec: ReembedSpec, collections: TenantCollections, collection: OpenCollection, context: RunContext
    ) -> Output:
        rows = reembed(spec, collections, collection, self._library, self._embedder, context)
        return Output(
            data={"collection": spec.collection, "rows": rows, "model": spec.model},
            parameters=spec.model_dump(mode="json", exclude={"kind"}),
            models=self._library.describe(spec.model),
        )

    # --- what is alike -------------------------------------------------------------------------------------------

    def _duplicates(self, spec: DuplicatesSpec, collection: OpenCollection, context: RunContext) -> Output:
        ids, vectors = chosen(collection, spec.filter)
        sets = [
            [ids[row] for row in rows] for rows in duplicate_sets(vectors, spec.threshold, _shown(context, "compare"))
        ]
        lines = [[str(number), row_id] for number, rows in enumerate(sets) for row_id in rows]
        return Output(
            data={
                "collection": spec.collection,
                "sets": sets[:MAX_LISTED_SETS],
                "total_sets": len(sets),
                "pictures": len(ids),
                "threshold": spec.threshold,
            },
            files={"duplicates.json": json_file(sets), "duplicates.csv": csv_file(["set", "id"], lines)},
            parameters=spec.model_dump(mode="json", exclude={"kind"}),
        )

    def _group(self, spec: GroupSpec, collection: OpenCollection, context: RunContext) -> Output:
        ids, vectors = chosen(collection, spec.filter)
        found = group(vectors, spec.k, spec.seed, _shown(context, "group"))
        names = self._names(spec, collection, found.centres, context)
        groups: list[dict[str, Any]] = []
        lines: list[list[str]] = []
        for number, name in enumerate(names):
            rows = np.flatnonzero(found.of == number)
            ordered = [ids[row] for row in rows[np.argsort(-found.cosines[rows], kind="stable")]]
            mean = round(float(found.cosines[rows].mean()), 6)
            groups.append({"name": name, "size": len(rows), "cosine": mean, "ids": ordered})
            lines += [[str(number), name, row_id] for row_id in ordered]
        return Output(
            data={
                "collection": spec.collection,
                "pictures": len(ids),
                "groups": [{**group, "ids": group["ids"][:MAX_LISTED_IDS]} for group in groups],
            },
            files={"groups.json": json_file(groups), "groups.csv": csv_file(["group", "name", "id"], lines)},
            parameters=spec.model_dump(mode="json", exclude={"kind"}),
            models=self._library.describe(collection.record.model),
        )

    def _names(self, spec: GroupSpec, collection: OpenCollection, centres: Vectors, context: RunContext) -> list[str]:
        """The nearest label of each group; numbers where none are given."""
        if not spec.labels or not len(centres):
            return [str(number) for number in range(len(centres))]
        check_model(self._library, collection)
        texts = self._embedder.texts(collection.record.model, spec.labels, context).float().cpu().numpy()
        return [spec.labels[number] for number in (centres @ texts.T).argmax(1)]


def _shown(context: RunContext, stage: str) -> Callable[[float], None]:
    """What numpy's loops call between two blocks."""
    return lambda share: context.progress(stage, round(share * 100), 100)


def build(parts: EngineParts) -> CollectionEngine:
    """The engine, as the table of kinds names it."""
    return CollectionEngine(parts.library, parts.device, parts.embedder, parts.options.search_events)
