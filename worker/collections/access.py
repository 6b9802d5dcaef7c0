"""Tenants' collections, as a worker holds them: records in Redis, vectors in the index, rows in memory."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from PIL import Image

from shared.errors import Conflict, Expired, InvalidInput, ModelUnavailable, NotFound, VectorsUnavailable
from shared.logs import get_logger
from shared.records.collection import Collection
from shared.settings import Settings
from shared.specs.clip import IndexItem, IndexSpec
from shared.specs.filters import AnyFilter, FieldType
from shared.storage import ObjectStore, image_key, input_key
from shared.store.collections import CollectionStore
from shared.store.jobs import JobStore
from worker.collections.sources import Archive, Picture, by_job
from worker.collections.url_fetcher import Fetcher
from worker.run.context import JobMonitor
from worker.run.retry import patiently
from worker.transfer.inputs import Inputs, decode_picture
from worker.vectors.database import check_database, open_database
from worker.vectors.index import Row, VectorDatabase, VectorTable
from worker.vectors.memory.cache import Caches
from worker.vectors.memory.snapshot import Snapshot

if TYPE_CHECKING:
    from worker.engines.collection_access import Loaded

__all__ = ["Shelves"]

log = get_logger(__name__)

OPEN_TABLES = 256
TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}


class Shelves:
    """One per process. The index is opened when the first job needs it: after any fork."""

    def __init__(self, store: JobStore, objects: ObjectStore, inputs: Inputs, settings: Settings) -> None:
        self.collections = CollectionStore(store.redis, settings)
        self.caches = Caches(settings.search_cache_bytes, settings.search_ann_rows)
        self._store = store
        self._objects = objects
        self._inputs = inputs
        self._settings = settings
        self._fetcher = Fetcher(settings)
        self._lock = threading.Lock()
        self._database: VectorDatabase | None = None
        self._tables: dict[str, VectorTable] = {}
        self._owners: dict[str, tuple[str, str]] = {}  # tenant and name, by table

    @property
    def is_open(self) -> bool:
        """Whether there is an index to serve collections from."""
        return bool(self._settings.vectors_url)

    def table(self, record: Collection) -> VectorTable:
        """Of a collection; kept open, since opening reads the table's schema."""
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

    def staleness_s(self) -> float:
        """How long the oldest change of a collection in memory here has not been taken in; 0 where all have."""
        now_ms, longest_ms = self._store.now_ms(), 0
        for held in self.caches.held():
            owner = self._owners.get(held.table)
            if owner is None:
                continue
            try:
                record = self.collections.get(*owner)
            except NotFound:
                continue
            if record.table == held.table and record.changes > held.changes:
                longest_ms = max(longest_ms, now_ms - record.changed_at_ms)
        return longest_ms / 1000

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
        """Raises ModelUnavailable where the settings name none, VectorsUnavailable."""
        with self._lock:
            if self._database is None:
                if not self.is_open:
                    raise ModelUnavailable(
                        "this pool serves no collections: its workers have no DREAMQUEUE_VECTORS_URL"
                    )
                self._database = open_database(self._settings)
            return self._database

    def of(self, monitor: JobMonitor) -> TenantShelf:
        """The shelf of a job's tenant; close it with the run."""
        return TenantShelf(self, monitor)

    # --- what a tenant's shelf is made of ------------------------------------------------------------------------

    def picture_bytes(self, ref: str, monitor: JobMonitor) -> bytes:
        """An upload, or a finished job's picture. Raises UnreadableImage."""
        return self._inputs.fetch_bytes(ref, monitor)

    def decode(self, body: bytes, ref: str) -> Image.Image:
        """Within the limits of the settings. Raises UnreadableImage."""
        return decode_picture(body, ref, self._settings.image_max_pixels)

    def fetch(self, url: str, monitor: JobMonitor) -> bytes:
        """Raises InvalidInput."""
        return self._fetcher.get(url, monitor.check)

    def archive(self, ref: str, monitor: JobMonitor) -> Archive:
        """Raises InvalidInput where it is gone or none, ObjectStoreUnavailable, Stopped."""
        key = input_key(monitor.claim.tenant, ref)
        try:
            return patiently(
                lambda: Archive(self._objects, key, self._settings.image_max_bytes, monitor.check),
                monitor, self._settings.upload_patience_s, but=(),
            )  # fmt: skip
        except NotFound:
            raise InvalidInput(f"the archive {ref} is gone", field="archive") from None

    def pictures_of_job(self, tenant: str, job_id: str) -> list[IndexItem]:
        """Raises InvalidInput."""
        try:
            return by_job(self._store.get(tenant, job_id))
        except (NotFound, Expired) as error:
            raise InvalidInput(error.message, field="job") from None

    def keep(self, tenant: str, loaded: Loaded, monitor: JobMonitor) -> None:
        """Under its id, as uploads lie. Raises ObjectStoreUnavailable, Stopped."""
        if loaded.body is None:
            return
        body, key = loaded.body, image_key(tenant, loaded.id.removeprefix("img_"))
        with Image.open(io.BytesIO(body)) as image:
            content_type = TYPES.get(image.format or "", "application/octet-stream")
        patiently(lambda: self._objects.put(key, body, content_type), monitor, self._settings.upload_patience_s, but=())


class TenantShelf:
    """See worker.engines.collection_access.Shelf."""

    def __init__(self, shelves: Shelves, monitor: JobMonitor) -> None:
        self._shelves = shelves
        self._monitor = monitor
        self._tenant = monitor.claim.tenant
        self._archives: list[Archive] = []

    @property
    def job_id(self) -> str:
        """See Shelf."""
        return self._monitor.claim.id

    def close(self) -> None:
        """Delete what was brought here for this run."""
        for archive in self._archives:
            archive.close()

    def open(self, name: str) -> Opened:
        """See Shelf."""
        return Opened(self._shelves, self._shelves.collections.get(self._tenant, name))

    def open_or_make(self, name: str, model: str) -> Opened:
        """See Shelf."""
        try:
            return self.open(name)
        except NotFound:
            self._shelves.collections.create(self._tenant, name, model)
            return self.open(name)

    def sources(self, spec: IndexSpec) -> Sequence[Picture]:
        """See Shelf."""
        if spec.archive is not None:
            archive = self._shelves.archive(spec.archive, self._monitor)
            self._archives.append(archive)
            return archive.pictures(self._shelves.decode)
        items = spec.images or self._shelves.pictures_of_job(self._tenant, spec.job or "")
        return [self._picture(f"images.{number}", item) for number, item in enumerate(items)]

    def _picture(self, name: str, item: IndexItem) -> Picture:
        ref, url = item.image, item.url

        def read() -> bytes:
            if ref is not None:
                return self._shelves.picture_bytes(ref, self._monitor)
            return self._shelves.fetch(url or "", self._monitor)

        is_upload = ref is not None and ref.startswith("img_")
        return Picture(name, ref or url or "", read, self._shelves.decode, item.metadata, is_upload)

    def picture(self, row_id: str) -> Image.Image:
        """See Shelf."""
        return self._shelves.decode(self._shelves.picture_bytes(row_id, self._monitor), row_id)

    def keep(self, loaded: Loaded) -> None:
        """See Shelf."""
        self._shelves.keep(self._tenant, loaded, self._monitor)


class Opened:
    """See worker.engines.collection_access.OpenCollection."""

    def __init__(self, shelves: Shelves, record: Collection) -> None:
        self._shelves = shelves
        self.record = record

    @property
    def table(self) -> VectorTable:
        """Its vectors."""
        return self._shelves.table(self.record)

    def bind(self, fingerprint: str, width: int, fields: Mapping[str, FieldType]) -> None:
        """See OpenCollection. Asks Redis only where something is new."""
        known = self.record.fields
        if (self.record.fingerprint, self.record.width) == (fingerprint, width) and all(
            known.get(name) == type_ for name, type_ in fields.items()
        ):
            return
        self.record = self._shelves.collections.bind(self.record, fingerprint, width, fields)

    def put(self, rows: Sequence[Row]) -> None:
        """See OpenCollection."""
        self.table.put(rows, self.record.columns)
        self._note()

    def remove(self, ids: Sequence[str]) -> int:
        """See OpenCollection."""
        removed = self.table.delete(ids)
        self._note()
        return removed

    def remove_where(self, filter_: AnyFilter) -> int:
        """See OpenCollection."""
        removed = self.table.delete_where(filter_, self.record.columns)
        self._note()
        return removed

    def _note(self) -> None:
        table = self.table
        version = table.version()
        try:
            self._shelves.collections.note(self.record, version=version, rows=table.count(), bytes_=table.bytes())
        except Conflict as moved:
            moved.retryable = True  # the next attempt writes to the table that answers now
            raise

    def snapshot(self) -> Snapshot | None:
        """See OpenCollection."""
        return self._shelves.caches.of(self.record.table, self.table, self.record.columns, self.record.changes)

    def whole(self) -> Snapshot:
        """See OpenCollection."""
        found = self.snapshot()
        if found is None:  # a server's table is held nowhere: read it for once
            found = self._shelves.caches.copy(self.table, self.record.columns)
        if found is None:
            raise InvalidInput(
                f"the collection has {self.record.rows} pictures, more than this worker holds in memory",
                field="collection", limit="DREAMQUEUE_SEARCH_CACHE_BYTES, DREAMQUEUE_SEARCH_ANN_ROWS",
            )  # fmt: skip
        return found

    def beside(self, width: int, table: str) -> VectorTable:
        """See OpenCollection."""
        self._shelves.collections.prepare(self.record, table)
        return self._shelves.database.open(table, width)

    def abandon(self, table: str) -> None:
        """See OpenCollection."""
        self._shelves.collections.abandon(self.record, table)

    def noted(self) -> None:
        """See OpenCollection."""
        if self.record.width:
            self._note()

    def switch(self, table: str, model: str, fingerprint: str, width: int) -> bool:
        """See OpenCollection."""
        made = self._shelves.database.open(table, width)
        version = made.version()
        return self._shelves.collections.switch(
            self.record, table, model=model, fingerprint=fingerprint, width=width, version=version, rows=made.count(),
            bytes_=made.bytes(),
        )  # fmt: skip
