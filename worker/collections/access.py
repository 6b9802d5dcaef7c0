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
from worker.collections.url_fetcher import UrlFetcher
from worker.run.context import JobContext
from worker.run.retry import retry_while_away
from worker.transfer.inputs import Inputs, decode_picture
from worker.vectors.database import check_database, open_database
from worker.vectors.index import Row, VectorDatabase, VectorTable
from worker.vectors.memory.cache import Caches
from worker.vectors.memory.snapshot import Snapshot

if TYPE_CHECKING:
    from worker.engines.collection_access import Loaded

__all__ = ["CollectionAccess"]

log = get_logger(__name__)

OPEN_TABLES = 256
TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}


class CollectionAccess:
    """One per process. The index is opened when the first job needs it: after any fork."""

    def __init__(self, store: JobStore, objects: ObjectStore, inputs: Inputs, settings: Settings) -> None:
        self.collections = CollectionStore(store.redis, settings)
        self.caches = Caches(settings.search_cache_bytes, settings.search_ann_rows)
        self._store = store
        self._objects = objects
        self._inputs = inputs
        self._settings = settings
        self._fetcher = UrlFetcher(settings)
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
        for cached in self.caches.cached():
            owner = self._owners.get(cached.table)
            if owner is None:
                continue
            try:
                record = self.collections.get(*owner)
            except NotFound:
                continue
            if record.table == cached.table and record.changes > cached.changes:
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

    def of(self, context: JobContext) -> JobCollections:
        """The collections of a job's tenant; close it with the run."""
        return JobCollections(self, context)

    # --- what a job's collections are made of --------------------------------------------------------------------

    def picture_bytes(self, ref: str, context: JobContext) -> bytes:
        """An upload, or a finished job's picture. Raises UnreadableImage."""
        return self._inputs.fetch_bytes(ref, context)

    def decode(self, body: bytes, ref: str) -> Image.Image:
        """Within the limits of the settings. Raises UnreadableImage."""
        return decode_picture(body, ref, self._settings.image_max_pixels)

    def fetch(self, url: str, context: JobContext) -> bytes:
        """Raises InvalidInput."""
        return self._fetcher.get(url, context.check)

    def archive(self, ref: str, context: JobContext) -> Archive:
        """Raises InvalidInput where it is gone or none, ObjectStoreUnavailable, Stopped."""
        key = input_key(context.claim.tenant, ref)
        try:
            return retry_while_away(
                lambda: Archive(self._objects, key, self._settings.image_max_bytes, context.check),
                context, self._settings.upload_patience_s, keep_through=(),
            )  # fmt: skip
        except NotFound:
            raise InvalidInput(f"the archive {ref} is gone", field="archive") from None

    def pictures_of_job(self, tenant: str, job_id: str) -> list[IndexItem]:
        """Raises InvalidInput."""
        try:
            return by_job(self._store.get(tenant, job_id))
        except (NotFound, Expired) as error:
            raise InvalidInput(error.message, field="job") from None

    def keep(self, tenant: str, loaded: Loaded, context: JobContext) -> None:
        """Under its id, as uploads lie. Raises ObjectStoreUnavailable, Stopped."""
        if loaded.body is None:
            return
        body, key = loaded.body, image_key(tenant, loaded.id.removeprefix("img_"))
        with Image.open(io.BytesIO(body)) as image:
            content_type = TYPES.get(image.format or "", "application/octet-stream")
        retry_while_away(
            lambda: self._objects.put(key, body, content_type),
            context,
            self._settings.upload_patience_s,
            keep_through=(),
        )


class JobCollections:
    """See worker.engines.collection_access.TenantCollections."""

    def __init__(self, access: CollectionAccess, context: JobContext) -> None:
        self._access = access
        self._context = context
        self._tenant = context.claim.tenant
        self._archives: list[Archive] = []

    @property
    def job_id(self) -> str:
        """See TenantCollections."""
        return self._context.claim.id

    def close(self) -> None:
        """Delete what was brought here for this run."""
        for archive in self._archives:
            archive.close()

    def open(self, name: str) -> OpenedCollection:
        """See TenantCollections."""
        return OpenedCollection(self._access, self._access.collections.get(self._tenant, name))

    def open_or_make(self, name: str, model: str) -> OpenedCollection:
        """See TenantCollections."""
        try:
            return self.open(name)
        except NotFound:
            self._access.collections.create(self._tenant, name, model)
            return self.open(name)

    def sources(self, spec: IndexSpec) -> Sequence[Picture]:
        """See TenantCollections."""
        if spec.archive is not None:
            archive = self._access.archive(spec.archive, self._context)
            self._archives.append(archive)
            return archive.pictures(self._access.decode)
        items = spec.images or self._access.pictures_of_job(self._tenant, spec.job or "")
        return [self._picture(f"images.{number}", item) for number, item in enumerate(items)]

    def _picture(self, name: str, item: IndexItem) -> Picture:
        ref, url = item.image, item.url

        def read() -> bytes:
            if ref is not None:
                return self._access.picture_bytes(ref, self._context)
            return self._access.fetch(url or "", self._context)

        is_upload = ref is not None and ref.startswith("img_")
        return Picture(name, ref or url or "", read, self._access.decode, item.metadata, is_upload)

    def picture(self, row_id: str) -> Image.Image:
        """See TenantCollections."""
        return self._access.decode(self._access.picture_bytes(row_id, self._context), row_id)

    def keep(self, loaded: Loaded) -> None:
        """See TenantCollections."""
        self._access.keep(self._tenant, loaded, self._context)


class OpenedCollection:
    """See worker.engines.collection_access.OpenCollection."""

    def __init__(self, access: CollectionAccess, record: Collection) -> None:
        self._access = access
        self.record = record

    @property
    def table(self) -> VectorTable:
        """Its vectors."""
        return self._access.table(self.record)

    def bind(self, fingerprint: str, width: int, fields: Mapping[str, FieldType]) -> None:
        """See OpenCollection. Asks Redis only where something is new."""
        known = self.record.fields
        if (self.record.fingerprint, self.record.width) == (fingerprint, width) and all(
            known.get(name) == type_ for name, type_ in fields.items()
        ):
            return
        self.record = self._access.collections.bind(self.record, fingerprint, width, fields)

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
            self._access.collections.note(self.record, version=version, rows=table.count(), bytes_=table.bytes())
        except Conflict as moved:
            moved.retryable = True  # the next attempt writes to the table that answers now
            raise

    def snapshot(self) -> Snapshot | None:
        """See OpenCollection."""
        return self._access.caches.of(self.record.table, self.table, self.record.columns, self.record.changes)

    def whole(self) -> Snapshot:
        """See OpenCollection."""
        found = self.snapshot()
        if found is None:  # a server's table is held nowhere: read it for once
            found = self._access.caches.copy(self.table, self.record.columns)
        if found is None:
            raise InvalidInput(
                f"the collection has {self.record.rows} pictures, more than this worker holds in memory",
                field="collection", limit="DREAMQUEUE_SEARCH_CACHE_BYTES, DREAMQUEUE_SEARCH_ANN_ROWS",
            )  # fmt: skip
        return found

    def open_next(self, width: int, table: str) -> VectorTable:
        """See OpenCollection."""
        self._access.collections.prepare(self.record, table)
        return self._access.database.open(table, width)

    def abandon(self, table: str) -> None:
        """See OpenCollection."""
        self._access.collections.abandon(self.record, table)

    def noted(self) -> None:
        """See OpenCollection."""
        if self.record.width:
            self._note()

    def switch(self, table: str, model: str, fingerprint: str, width: int) -> bool:
        """See OpenCollection."""
        made = self._access.database.open(table, width)
        version = made.version()
        return self._access.collections.switch(
            self.record, table, model=model, fingerprint=fingerprint, width=width, version=version, rows=made.count(),
            bytes_=made.bytes(),
        )  # fmt: skip
