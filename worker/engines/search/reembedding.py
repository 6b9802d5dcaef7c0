"""A collection seen by another CLIP: a second table fills beside the one that answers, then takes its place.

What changes meanwhile is followed: the switch is refused while the new table lacks a row, or has one too many.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from shared.errors import Cancelled, DeadlineExceeded, DreamqueueError, Stopped, Unavailable
from shared.specs.clip import ReembedSpec
from worker.engines.base import RunContext
from worker.engines.collection_access import OpenCollection, TenantCollections
from worker.engines.embedding.embedder import Embedder
from worker.engines.images import scaled
from worker.engines.library import ModelLibrary
from worker.engines.search.indexing import CHUNK, Quiet
from worker.vectors.index import Columns, Metadata, Row, Vectors, VectorTable

__all__ = ["reembed"]


def reembed(
    spec: ReembedSpec, collections: TenantCollections, collection: OpenCollection, library: ModelLibrary,
    embedder: Embedder, context: RunContext,
) -> int:  # fmt: skip
    """Run to the switch; how many rows there are then. An earlier attempt's rows are kept. Raises DreamqueueError for a
    picture that cannot be read any more: the old vectors stay then."""
    clip, fingerprint = library.clip(spec.model), library.describe(spec.model)[0].sha256
    table = f"c{hashlib.sha256(f'{collection.record.id}:{collections.job_id}'.encode()).hexdigest()[:32]}"
    try:
        while True:
            collection = collections.open(spec.collection)
            if collection.record.table == table:
                return collection.record.rows  # an earlier attempt of this job switched
            new = collection.open_next(clip.width, table)
            _fill(new, spec.model, collections, collection, embedder, context)
            if collection.switch(table, spec.model, fingerprint, clip.width):
                return new.count()
    except DreamqueueError as error:
        if isinstance(error, Cancelled | DeadlineExceeded) or not (error.retryable or isinstance(error, Stopped)):
            collection.abandon(table)  # nobody goes on from there
        raise


@dataclass(frozen=True)
class _Kept:
    """Of a row, without its vector: there may be millions."""

    metadata: Metadata
    added_at_ms: int


def _kept(table: VectorTable, columns: Columns, context: RunContext) -> dict[str, _Kept]:
    found: dict[str, _Kept] = {}
    for rows in table.scan(columns):
        context.check()
        found.update((row.id, _Kept(row.metadata, row.added_at_ms)) for row in rows)
    return found


def _fill(
    new: VectorTable,
    model: str,
    collections: TenantCollections,
    collection: OpenCollection,
    embedder: Embedder,
    context: RunContext,
) -> None:
    """Make the new table's rows those of the collection as it was opened."""
    columns = collection.record.columns
    wanted = _kept(collection.table, columns, context) if collection.record.width else {}
    existing = _kept(new, columns, context)
    if gone := [row_id for row_id in existing if row_id not in wanted]:
        new.delete(gone)
    stale = [row_id for row_id, row in wanted.items() if existing.get(row_id) != row]
    done = len(wanted) - len(stale)
    for begin in range(0, len(stale), CHUNK):
        part = stale[begin : begin + CHUNK]
        vectors = _seen(part, model, collections, embedder, context)
        rows = [
            Row(row_id, vector, wanted[row_id].metadata, wanted[row_id].added_at_ms)
            for row_id, vector in zip(part, vectors, strict=True)
        ]
        new.put(rows, columns)
        done += len(part)
        context.progress("embed", done, len(wanted))


def _seen(
    ids: Sequence[str], model: str, collections: TenantCollections, embedder: Embedder, context: RunContext
) -> Vectors:
    images = []
    side = embedder.side_px(model)
    for row_id in ids:
        context.check()
        try:
            images.append(scaled(collections.picture(row_id), (side, side)))
        except (Unavailable, Stopped):
            raise
        except DreamqueueError as error:
            error.message = f"{row_id}: {error.message}; remove it from the collection and re-embed again"
            raise
    found: Vectors = embedder.images(model, images, Quiet(context)).float().cpu().numpy()
    return found
