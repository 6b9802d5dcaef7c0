"""Tenants' collections, as a worker holds them: records in Redis, vectors in the index, rows in memory."""

from __future__ import annotations

from shared.errors import NotFound
from shared.records.collection import Collection
from shared.settings import Settings
from shared.storage import ObjectStore
from shared.store.collections import CollectionStore
from shared.store.jobs import JobStore
from worker.collections.job_collections import JobCollections
from worker.collections.open_collection import OpenedCollection
from worker.collections.pictures import Pictures
from worker.collections.tables import Tables
from worker.run.context import JobContext
from worker.transfer.inputs import Inputs
from worker.vectors.memory.cache import Caches

__all__ = ["CollectionAccess"]


class CollectionAccess:
    """One per process: what all jobs share. Each job gets its own view by `of`."""

    def __init__(self, store: JobStore, objects: ObjectStore, inputs: Inputs, settings: Settings) -> None:
        self.collections = CollectionStore(store.redis, settings)
        self.tables = Tables(settings)
        self.caches = Caches(settings.search_cache_bytes, settings.search_ann_rows)
        self._store = store
        self._pictures = Pictures(store, objects, inputs, settings)

    def of(self, context: JobContext) -> JobCollections:
        """The collections of a job's tenant; close it with the run."""
        return JobCollections(context, self._pictures, self.collections, self._opened)

    def _opened(self, record: Collection) -> OpenedCollection:
        return OpenedCollection(record, self.collections, self.tables, self.caches)

    def staleness_s(self) -> float:
        """How long the oldest change of a collection in memory here has not been taken in; 0 where all have."""
        now_ms, longest_ms = self._store.now_ms(), 0
        for cached in self.caches.cached():
            owner = self.tables.owner(cached.table)
            if owner is None:
                continue
            try:
                record = self.collections.get(*owner)
            except NotFound:
                continue
            if record.table == cached.table and record.changes > cached.changes:
                longest_ms = max(longest_ms, now_ms - record.changed_at_ms)
        return longest_ms / 1000
