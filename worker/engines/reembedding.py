"""A collection seen by another CLIP: a second table fills beside the one that answers, then takes its place.

What changes meanwhile is followed: the switch is refused while the new table lacks a row, or has one too many.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from shared.clip_specs import ReembedSpec
from shared.errors import DreamqueueError, Stopped, Unavailable
from worker.engines.base import Monitor
from worker.engines.embeddings import Embedder
from worker.engines.indexing import CHUNK, Quiet
from worker.engines.library import ModelLibrary
from worker.engines.shelf import OpenCollection, Shelf
from worker.vectors.index import Row, VectorTable

__all__ = ["reembed"]


def reembed(
    spec: ReembedSpec, shelf: Shelf, collection: OpenCollection, library: ModelLibrary, embedder: Embedder,
    monitor: Monitor,
) -> int:  # fmt: skip
    """Run to the switch; how many rows there are then. An earlier attempt's rows are kept. Raises DreamqueueError for a
    picture that cannot be read any more: the old vectors stay then."""
    clip, fingerprint = library.clip(spec.model), library.describe(spec.model)[0].sha256
    table = _table(collection.record.id, collection.record.table, fingerprint)
    while True:
        collection = shelf.open(spec.collection)
        if collection.record.table == table or collection.record.fingerprint == fingerprint:
            return collection.record.rows  # an earlier attempt switched, or there was nothing to do
        new = collection.beside(clip.width, table)
        _fill(new, spec.model, shelf, collection, embedder, monitor)
        if collection.switch(table, spec.model, fingerprint, clip.width):
            return new.count()


def _fill(
    new: VectorTable, model: str, shelf: Shelf, collection: OpenCollection, embedder: Embedder, monitor: Monitor
) -> None:
    """Make the new table's rows those of the collection as it was opened."""
    columns = collection.record.columns
    wanted: dict[str, Row] = {}
    if collection.record.width:
        for rows in collection.table.scan(columns):
            wanted.update((row.id, row) for row in rows)
    held = {row.id: row for rows in new.scan(columns) for row in rows}
    if gone := [row_id for row_id in held if row_id not in wanted]:
        new.delete(gone)
    stale = [row for row_id, row in wanted.items() if row_id not in held or held[row_id].metadata != row.metadata]
    done = len(wanted) - len(stale)
    for begin in range(0, len(stale), CHUNK):
        part = stale[begin : begin + CHUNK]
        new.put(_seen(part, model, shelf, embedder, monitor), columns)
        done += len(part)
        monitor.progress("embed", done, len(wanted))


def _seen(rows: Sequence[Row], model: str, shelf: Shelf, embedder: Embedder, monitor: Monitor) -> list[Row]:
    images = []
    for row in rows:
        try:
            images.append(shelf.picture(row.id))
        except (Unavailable, Stopped):
            raise
        except DreamqueueError as error:
            error.message = f"{row.id}: {error.message}; remove it from the collection and re-embed again"
            raise
    vectors = embedder.images(model, images, Quiet(monitor)).float().cpu().numpy()
    return [Row(row.id, vector, row.metadata, row.added_at_ms) for row, vector in zip(rows, vectors, strict=True)]


def _table(collection_id: str, old: str, fingerprint: str) -> str:
    """The same for every attempt of the same change."""
    return f"c{hashlib.sha256(f'{collection_id}:{old}:{fingerprint}'.encode()).hexdigest()[:32]}"
