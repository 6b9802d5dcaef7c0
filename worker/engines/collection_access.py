"""What an engine may do with its tenant's collections and pictures; worker/collections/ has the real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL.Image import Image

from shared.records.collection import Collection
from shared.specs.clip import IndexSpec
from shared.specs.filters import AnyFilter, FieldType
from worker.vectors.index import Metadata, Row, VectorTable
from worker.vectors.memory.snapshot import Snapshot

__all__ = ["Loaded", "OpenCollection", "Source", "TenantCollections"]


@dataclass(frozen=True)
class Loaded:
    """A picture that was read and decoded."""

    id: str  # img_<sha256 of its bytes>
    image: Image  # RGB
    body: bytes | None  # to be kept under its id; None where it lies there already


class Source(Protocol):
    """A picture to come."""

    @property
    def item(self) -> str:
        """Which one of the job's, for errors: `images.3`, a path in an archive."""

    @property
    def metadata(self) -> Metadata:
        """That was given with it."""

    def load(self) -> Loaded:
        """Fetch and decode it; from any thread. Raises DreamqueueError, of which only Unavailable and Stopped are not
        this picture's own fault."""


class OpenCollection(Protocol):
    """One collection as it was when it was opened. Raises VectorsUnavailable, StoreUnavailable."""

    @property
    def record(self) -> Collection:
        """As it was then, or was bound since."""

    @property
    def table(self) -> VectorTable:
        """Its vectors."""

    def bind(self, fingerprint: str, width: int, fields: Mapping[str, FieldType]) -> None:
        """Set the model's weights, the width and the fields where nobody did yet; `record` is as it is then."""

    def put(self, rows: Sequence[Row]) -> None:
        """Write rows and say so. Raises NotFound where it was deleted, Conflict where it was re-embedded meanwhile."""

    def remove(self, ids: Sequence[str]) -> int:
        """Remove rows and say so; how many there were."""

    def remove_where(self, filter_: AnyFilter) -> int:
        """The same for all that match."""

    def snapshot(self) -> Snapshot | None:
        """Its rows in memory, as of its latest change; None where it is too large for that."""

    def whole(self) -> Snapshot:
        """The same. Raises InvalidInput where it is too large."""

    def open_next(self, width: int, table: str) -> VectorTable:
        """A table of that name for the vectors of another model. Raises NotFound."""

    def abandon(self, table: str) -> None:
        """A table beside it is not to take over."""

    def noted(self) -> None:
        """Say how large it is, though nothing was written: an attempt that was killed may not have said so."""

    def switch(self, table: str, model: str, fingerprint: str, width: int) -> bool:
        """Make that table the collection's unless the collection changed since it was opened. Raises NotFound."""


class TenantCollections(Protocol):
    """All of one tenant's, on behalf of one job."""

    @property
    def job_id(self) -> str:
        """The job's, the same in every attempt."""

    def open(self, name: str) -> OpenCollection:
        """Raises NotFound."""

    def open_or_make(self, name: str, model: str) -> OpenCollection:
        """A missing one is made, of pictures that `model` sees."""

    def sources(self, spec: IndexSpec) -> Sequence[Source]:
        """The pictures of an index job, in a lasting order. Raises NotFound, InvalidInput where the archive or the
        job is not there."""

    def picture(self, row_id: str) -> Image:
        """A picture that lies under its id. Raises UnreadableImage."""

    def keep(self, loaded: Loaded) -> None:
        """Store the picture under its id."""
