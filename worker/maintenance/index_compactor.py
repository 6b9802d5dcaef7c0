"""Keeps the vector index in order: compacts tables that were written to, drops those that belong to nothing, and shows
what is in memory. Any worker may do any of it; Redis gives each table to one of them.
"""

from __future__ import annotations

from shared.errors import VectorsUnavailable
from shared.logs import get_logger
from shared.metrics import (
    INDEX_COMPACTIONS,
    SEARCH_CACHE_BYTES,
    SEARCH_CACHE_ROWS,
    SEARCH_CACHE_TABLES,
    SEARCH_STALENESS,
)
from worker.collections.access import CollectionAccess
from worker.threads import PeriodicThread

__all__ = ["IndexCompactor"]

log = get_logger(__name__)

PERIOD_S = 5.0
REST_S = 30.0  # a table is compacted so long after it was first written to
VERSIONS_KEPT_S = 3_700.0  # a little more than readers need old versions (worker/vectors/stores/lance.py)
LAST_READ_S = 60.0  # a table that belongs to nothing may still be read so long


class IndexCompactor:
    """One per process that has an index."""

    def __init__(self, access: CollectionAccess, large_rows: int) -> None:
        self._access = access
        self._large_rows = large_rows  # of a table of more, compacting also renews its index
        self.thread = PeriodicThread("index-compactor", PERIOD_S, self.look_after)

    def look_after(self, rest_s: float = REST_S, last_read_s: float = LAST_READ_S) -> None:
        """One round. Raises StoreUnavailable, VectorsUnavailable."""
        self._show()
        self.drop(last_read_s)
        self.compact(rest_s)

    def drop(self, older_than_s: float) -> int:
        """Delete tables that have belonged to nothing for so long; how many. One that cannot be is tried again."""
        count = 0
        for table in self._access.collections.dropped(older_than_s):
            try:
                self._access.tables.database.drop(table)
            except VectorsUnavailable as error:
                log.warning("table not dropped", table=table, error=error.message)
                continue
            self._access.caches.drop(table)
            self._access.collections.forget(table)
            log.info("table dropped", table=table)
            count += 1
        return count

    def compact(self, rest_s: float) -> int:
        """Compact every table that was first written to so long ago; how many. One that cannot be is tried again later,
        and so is one whose worker dies over it."""
        count = 0
        while collection := self._access.collections.take_due(rest_s):
            try:
                if collection.width:
                    self._access.tables.of(collection).optimize(is_large=collection.rows > self._large_rows)
                    INDEX_COMPACTIONS.inc()
                    count += 1
            except VectorsUnavailable as error:
                log.warning("table not compacted", table=collection.table, error=error.message)
                continue
            self._access.collections.compacted(collection, VERSIONS_KEPT_S)
        return count

    def _show(self) -> None:
        cached = self._access.caches.cached()
        SEARCH_CACHE_ROWS.set(sum(one.rows for one in cached))
        SEARCH_CACHE_BYTES.set(sum(one.bytes for one in cached))
        SEARCH_CACHE_TABLES.set(len(cached))
        SEARCH_STALENESS.set(self._access.staleness_s())
