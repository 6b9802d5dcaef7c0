"""A collection seen by another CLIP: a second table fills beside the one that answers, then takes its place.

What changes meanwhile is followed: the switch is refused while the new table lacks a row, or has one too many.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from shared.errors import Cancelled, DeadlineExceeded, DreamqueueError, Stopped, Unavailable
from shared.specs.clip import ReembedSpec
from worker.engines.base import Monitor
from worker.engines.collection_access import OpenCollection, Shelf
from worker.engines.embedding.embedder import Embedder
from worker.engines.images import scaled
from worker.engines.library import ModelLibrary
from worker.engines.search.indexing import CHUNK, Quiet
from worker.vectors.index import Columns, Metadata, Row, Vectors, VectorTable

__all__ = ["reembed"]


def reembed(
    spec: ReembedSpec, shelf: Shelf, collection: OpenCollection, library: ModelLibrary, embedder: Embedder,
    monitor: Monitor,
) -> int:  # fmt: skip
    """Run to the switch; how many rows there are then. An earlier attempt's rows are kept. Raises DreamqueueError for a
    picture that cannot be read any more: the old vectors stay then."""
    clip, fingerprint = library.clip(spec.model), library.describe(spec.model)[0].sha256
    table = f"c{hashlib.sha256(f'{collection.record.id}:{shelf.job_id}'.encode()).hexdigest()[:32]}"
    try:
        while True:
            collection = shelf.open(spec.collection)
            if collection.record.table == table:
                return collection.record.rows  # an earlier attempt of this job switched
            new = collection.beside(clip.width, table)
            _fill(new, spec.model, shelf, collection, embedder, monitor)
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


def _kept(table: VectorTable, columns: Columns, monitor: Monitor) -> dict[str, _Kept]:
    found: dict[str, _Kept] = {}
    for rows in table.scan(columns):
        monitor.check()
        found.update((row.id, _Kept(row.metadata, row.added_at_ms)) for row in rows)
    return found


def _fill(
    new: VectorTable, model: str, shelf: Shelf, collection: OpenCollection, embedder: Embedder, monitor: Monitor
) -> None:
    """Make the new table's rows those of the collection as it was opened."""
    columns = collection.record.columns
    wanted = _kept(collection.table, columns, monitor) if collection.record.width else {}
    held = _kept(new, columns, monitor)
    if gone := [row_id for row_id in held if row_id not in wanted]:
        new.delete(gone)
    stale = [row_id for row_id, row in wanted.items() if held.get(row_id) != row]
    done = len(wanted) - len(stale)
    for begin in range(0, len(stale), CHUNK):
        part = stale[begin : begin + CHUNK]
        vectors = _seen(part, model, shelf, embedder, monitor)
        rows = [
            Row(row_id, vector, wanted[row_id].metadata, wanted[row_id].added_at_ms)
            for row_id, vector in zip(part, vectors, strict=True)
        ]
        new.put(rows, columns)
        done += len(part)
        monitor.progress("embed", done, len(wanted))


def _seen(ids: Sequence[str], model: str, shelf: Shelf, embedder: Embedder, monitor: Monitor) -> Vectors:
    images = []
    side = embedder.side_px(model)
    for row_id in ids:
        monitor.check()
        try:
            images.append(scaled(shelf.picture(row_id), (side, side)))
        except (Unavailable, Stopped):
            raise
        except DreamqueueError as error:
            error.message = f"{row_id}: {error.message}; remove it from the collection and re-embed again"
            raise
    found: Vectors = embedder.images(model, images, Quiet(monitor)).float().cpu().numpy()
    return found
