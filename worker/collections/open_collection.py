"""A collection that a job has opened: what it reads there, and what it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shared.errors import InvalidInput
from shared.records.collection import Collection
from shared.specs.filters import AnyFilter, FieldType
from shared.store.collections import CollectionStore
from worker.collections.tables import Tables
from worker.vectors.index import Row, VectorTable
from worker.vectors.memory.cache import Caches
from worker.vectors.memory.snapshot import Snapshot

__all__ = ["OpenedCollection"]


class OpenedCollection:
    """The worker's OpenCollection (worker/engines/collection_access.py). What it writes to the table it tells Redis, so
    that every worker learns of it."""

    def __init__(self, record: Collection, records: CollectionStore, tables: Tables, caches: Caches) -> None:
        self.record = record
        self._records = records
        self._tables = tables
        self._caches = caches

    @property
    def table(self) -> VectorTable:
        """Its vectors."""
        return self._tables.of(self.record)

    def bind(self, fingerprint: str, width: int, fields: Mapping[str, FieldType]) -> None:
        """Say which model and which metadata fields its rows have; `record` is as it is then. Asks Redis only where
        something is new."""
        known = self.record.fields
        if (self.record.fingerprint, self.record.width) == (fingerprint, width) and all(
            known.get(name) == type_ for name, type_ in fields.items()
        ):
            return
        self.record = self._records.bind(self.record, fingerprint, width, fields)

    def put(self, rows: Sequence[Row]) -> None:
        """Write rows. Raises NotFound where it was deleted, CollectionMoved where it was re-embedded."""
        self.table.put(rows, self.record.columns)
        self._note()

    def remove(self, ids: Sequence[str]) -> int:
        """Delete rows; how many there were."""
        removed = self.table.delete(ids)
        self._note()
        return removed

    def remove_where(self, filter_: AnyFilter) -> int:
        """Delete the rows that match; how many there were."""
        removed = self.table.delete_where(filter_, self.record.columns)
        self._note()
        return removed

    def _note(self) -> None:
        table = self.table
        version = table.version()
        self._records.note(self.record, version=version, rows=table.count(), bytes_=table.bytes())

    def snapshot(self) -> Snapshot | None:
        """Its rows in memory, as of its latest change; None where it is too large for that."""
        return self._caches.of(self.record.table, self.table, self.record.columns, self.record.changes)

    def whole(self) -> Snapshot:
        """Its rows in memory, read for this once where they are held nowhere. Raises InvalidInput where it is too
        large."""
        found = self.snapshot()
        if found is None:  # a server's table
            found = self._caches.copy(self.table, self.record.columns)
        if found is None:
            raise InvalidInput(
                f"the collection has {self.record.rows} pictures, more than this worker holds in memory",
                field="collection",
                limit="DREAMQUEUE_SEARCH_CACHE_BYTES, DREAMQUEUE_SEARCH_ANN_ROWS",
            )
        return found

    def open_next(self, width: int, table: str) -> VectorTable:
        """Announce and open a table for the vectors of another model. Raises NotFound."""
        self._records.prepare(self.record, table)
        return self._tables.database.open(table, width)

    def abandon(self, table: str) -> None:
        """Give up a table that was to take over; it is dropped later."""
        self._records.abandon(self.record, table)

    def noted(self) -> None:
        """Tell Redis how large it is, though nothing was written: an attempt that was killed may not have done so."""
        if self.record.width:
            self._note()

    def switch(self, table: str, model: str, fingerprint: str, width: int) -> bool:
        """Make that table the collection's; False where the collection changed since it was opened. Raises NotFound."""
        made = self._tables.database.open(table, width)
        version = made.version()
        return self._records.switch(
            self.record,
            table,
            model=model,
            fingerprint=fingerprint,
            width=width,
            version=version,
            rows=made.count(),
            bytes_=made.bytes(),
        )
