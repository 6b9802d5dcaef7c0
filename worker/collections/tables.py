"""The vector index of this process, and the tables of it that are open."""

from __future__ import annotations

import threading

from shared.errors import ModelUnavailable, VectorsUnavailable
from shared.logs import get_logger
from shared.records.collection import Collection
from shared.settings import Settings
from worker.vectors.database import check_database, open_database
from worker.vectors.index import VectorDatabase, VectorTable

__all__ = ["Tables"]

log = get_logger(__name__)

OPEN_TABLES = 256


class Tables:
    """The index is opened when the first job needs it: after any fork."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._database: VectorDatabase | None = None
        self._tables: dict[str, VectorTable] = {}
        self._owners: dict[str, tuple[str, str]] = {}  # tenant and name, by table

    @property
    def is_open(self) -> bool:
        """Whether there is an index to serve collections from."""
        return bool(self._settings.vectors_url)

    def of(self, record: Collection) -> VectorTable:
        """A collection's; kept open, since opening reads the table's schema."""
        with self._lock:
            table = self._tables.get(record.table)
        if table is None:
            table = self.database.open(record.table, record.width)
            with self._lock:
                self._tables[record.table] = table
                self._owners[record.table] = (record.tenant, record.name)
                while len(self._tables) > OPEN_TABLES:
                    oldest = next(iter(self._tables))
                    del self._tables[oldest], self._owners[oldest]
        return table

    def owner(self, table: str) -> tuple[str, str] | None:
        """Tenant and name of the collection that an open table is of."""
        return self._owners.get(table)

    def prepare(self, *, is_searched: bool) -> None:
        """Make sure that the index can be shared, and open it now where the first search would wait for that. One that
        is away is tried again by the first job. Raises VectorsUnfit."""
        try:
            check_database(self._settings)
            if is_searched:
                _ = self.database
        except VectorsUnavailable as error:
            log.warning("vector index away at start", error=error.message)

    @property
    def database(self) -> VectorDatabase:
        """Opened by the first call. Raises ModelUnavailable where the settings name none, VectorsUnavailable."""
        with self._lock:
            if self._database is None:
                if not self.is_open:
                    raise ModelUnavailable(
                        "this pool serves no collections: its workers have no DREAMQUEUE_VECTORS_URL"
                    )
                self._database = open_database(self._settings)
            return self._database
