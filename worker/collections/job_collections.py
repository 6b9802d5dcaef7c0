"""What one job sees of its tenant's collections and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from PIL import Image

from shared.errors import NotFound
from shared.records.collection import Collection
from shared.specs.clip import IndexItem, IndexSpec
from shared.store.collections import CollectionStore
from worker.collections.open_collection import OpenedCollection
from worker.collections.pictures import Pictures
from worker.collections.sources import Archive, Picture
from worker.run.context import JobContext

if TYPE_CHECKING:
    from worker.engines.collection_access import Loaded

__all__ = ["JobCollections"]

Opening = Callable[[Collection], OpenedCollection]


class JobCollections:
    """The worker's TenantCollections (worker/engines/collection_access.py): opened for one run, closed with it."""

    def __init__(self, context: JobContext, pictures: Pictures, records: CollectionStore, opened: Opening) -> None:
        self._context = context
        self._pictures = pictures
        self._records = records
        self._opened = opened
        self._tenant = context.claim.tenant
        self._archives: list[Archive] = []

    @property
    def job_id(self) -> str:
        """The job's, the same in every attempt."""
        return self._context.claim.id

    def close(self) -> None:
        """Delete what was brought here for this run."""
        for archive in self._archives:
            archive.close()

    def open(self, name: str) -> OpenedCollection:
        """One that is there. Raises NotFound."""
        return self._opened(self._records.get(self._tenant, name))

    def open_or_make(self, name: str, model: str) -> OpenedCollection:
        """One that is there, or a new one for pictures that `model` sees."""
        try:
            return self.open(name)
        except NotFound:
            self._records.create(self._tenant, name, model)
            return self.open(name)

    def sources(self, spec: IndexSpec) -> Sequence[Picture]:
        """The pictures of an index job, in a lasting order. Raises NotFound, InvalidInput where the archive or the job
        is not there."""
        if spec.archive is not None:
            archive = self._pictures.archive(spec.archive, self._context)
            self._archives.append(archive)
            return archive.pictures(self._pictures.decode)
        items = spec.images or self._pictures.of_job(self._tenant, spec.job or "")
        return [self._picture(f"images.{number}", item) for number, item in enumerate(items)]

    def _picture(self, name: str, item: IndexItem) -> Picture:
        ref, url = item.image, item.url

        def read() -> bytes:
            if ref is not None:
                return self._pictures.read(ref, self._context)
            return self._pictures.fetch(url or "", self._context)

        is_upload = ref is not None and ref.startswith("img_")
        return Picture(name, ref or url or "", read, self._pictures.decode, item.metadata, is_upload)

    def picture(self, row_id: str) -> Image.Image:
        """A picture that lies under its id. Raises UnreadableImage."""
        return self._pictures.decode(self._pictures.read(row_id, self._context), row_id)

    def keep(self, loaded: Loaded) -> None:
        """Store a picture under its id. Raises ObjectStoreUnavailable, Stopped."""
        self._pictures.keep(self._tenant, loaded, self._context)
