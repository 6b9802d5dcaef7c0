"""Pictures into a collection: read many at once, looked at in the device's batches, written in batches.

A picture is known by its content. One that is there already is not looked at again, only its metadata is brought up to
date; so a job that lost its worker, or was sent twice, ends with each picture once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from shared.errors import DreamqueueError, InvalidInput, NonFinite, Stopped, Unavailable, UnreadableRecord
from shared.records.reading import record_from_json
from shared.specs.clip import IndexSpec
from shared.specs.filters import type_of
from worker.engines.base import RunContext
from worker.engines.collection_access import Loaded, OpenCollection, Source, TenantCollections
from worker.engines.embedding.embedder import Embedder
from worker.engines.images import scaled
from worker.engines.search.stages import StageClock
from worker.vectors.index import Row, Vectors

T = TypeVar("T")

__all__ = ["CHUNK", "Indexed", "Indexing", "Quiet"]

CHUNK = 128  # pictures that are looked at and written together; what a lost worker may do again
THREADS = 8  # that fetch and decode: they wait for servers, and Pillow works without the interpreter's lock
MAX_LISTED_ERRORS = 100  # in the result; all are in errors.csv
NOT_ITS_OWN = (Unavailable, Stopped)  # errors that are no picture's own


@dataclass
class Indexed:
    """What became of a job's pictures so far, whole chunks of them."""

    collection: str = ""  # its id: another one of the same name is begun anew
    done: int = 0
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    errors: list[dict[str, str]] = field(default_factory=list)

    def result(self, collection: str, total: int) -> dict[str, Any]:
        """As the job's result shows it."""
        counts = {"added": self.added, "updated": self.updated, "unchanged": self.unchanged}
        errors = self.errors[:MAX_LISTED_ERRORS]
        return {"collection": collection, **counts, "failed": len(self.errors), "total": total, "errors": errors}

    def take(self, chunk: Indexed) -> None:
        """Add what became of a chunk."""
        self.done += chunk.done
        self.added += chunk.added
        self.updated += chunk.updated
        self.unchanged += chunk.unchanged
        self.errors += chunk.errors

    def saved(self) -> bytes:
        """From which `resumed` goes on."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def resumed(cls, saved: bytes | None, collection: str) -> Indexed:
        """What an earlier attempt did; nothing, where what it saved cannot be read or went into another collection."""
        try:
            found = record_from_json(cls, saved) if saved else cls(collection)
        except UnreadableRecord:
            return cls(collection)
        return found if found.collection == collection else cls(collection)


class Quiet:
    """A context for a part of the work: stops it, but shows no progress of its own."""

    def __init__(self, context: RunContext) -> None:
        self.check = context.check

    def progress(self, _stage: str, _step: int, _total: int) -> None:
        """Checks only."""
        self.check()

    def preview(self, *_: Any) -> None:
        """Shows nothing."""

    def snapshot(self, *_: Any) -> None:
        """Saves nothing."""

    def resumed(self, _step: int) -> None:
        """Nor does it go on from anything."""


@dataclass(frozen=True)
class _Picture:
    """One that is to be in the collection."""

    source: Source
    loaded: Loaded


class Indexing:
    """One job's run. `model` sees the pictures; `indexed` says at any time how far it is."""

    def __init__(
        self, collections: TenantCollections, collection: OpenCollection, embedder: Embedder, fingerprint: str,
        width: int, clock: StageClock,
    ) -> None:  # fmt: skip
        self._collections = collections
        self._collection = collection
        self._embedder = embedder
        self._model = collection.record.model
        self._fingerprint = fingerprint
        self._width = width
        self._clock = clock
        self._side_px = embedder.side_px(self._model)

    def run(self, spec: IndexSpec, indexed: Indexed, context: RunContext) -> int:
        """Index every source from number `indexed.done` on; how many there are in all."""
        sources = self._collections.sources(spec)
        if indexed.done:
            context.resumed(indexed.done)
        with ThreadPoolExecutor(THREADS, thread_name_prefix="read") as readers:
            try:
                for chunk, coming in _ahead(sources[indexed.done :], self._side_px, readers):
                    self._chunk(chunk, coming, indexed, context)
                    context.progress("index", indexed.done, len(sources))
            finally:
                readers.shutdown(wait=False, cancel_futures=True)
        self._collection.noted()
        return len(sources)

    def _chunk(
        self, chunk: Sequence[Source], coming: Sequence[Future[Loaded]], indexed: Indexed, context: RunContext
    ) -> None:
        """Counted as a whole or not at all, whatever stops it."""
        found = Indexed(done=len(chunk))
        self._index(self._read(chunk, coming, found, context), found, context)
        indexed.take(found)
        saved = indexed.saved()
        context.snapshot(indexed.done, lambda: saved)

    def _read(
        self, chunk: Sequence[Source], coming: Sequence[Future[Loaded]], indexed: Indexed, context: RunContext
    ) -> list[_Picture]:
        """Those that can be; each content once, and the first of it counts."""
        pictures: dict[str, _Picture] = {}
        with self._clock.stage("fetch"):
            for source, future in zip(chunk, coming, strict=True):
                try:
                    picture = _Picture(source, _result(future, context))
                except NOT_ITS_OWN:
                    raise
                except DreamqueueError as error:
                    self._failed(indexed, source, error)
                    continue
                if picture.loaded.id in pictures:
                    indexed.unchanged += 1
                pictures.setdefault(picture.loaded.id, picture)
        return list(pictures.values())

    def _index(self, pictures: list[_Picture], indexed: Indexed, context: RunContext) -> None:
        pictures = self._bound(pictures, indexed)
        existing = self._collection.table.get(
            [picture.loaded.id for picture in pictures], self._collection.record.columns
        )
        new = [picture for picture in pictures if picture.loaded.id not in existing]
        changed = [
            picture
            for picture in pictures
            if picture.loaded.id in existing
            and dict(existing[picture.loaded.id].metadata) != dict(picture.source.metadata)
        ]
        rows = self._looked_at(new, indexed, context)
        seen = len(rows)
        rows += [replace(existing[picture.loaded.id], metadata=picture.source.metadata) for picture in changed]
        if rows:
            with self._clock.stage("write"):
                self._collection.put(rows)
        indexed.added += seen
        indexed.updated += len(changed)
        indexed.unchanged += len(pictures) - len(new) - len(changed)
        self._clock.events.on_rows(seen, len(changed), len(pictures) - len(new) - len(changed))

    def _bound(self, pictures: list[_Picture], indexed: Indexed) -> list[_Picture]:
        """Those whose metadata fits the collection's fields. All at once, since it is the same for nearly all."""
        together = {name: type_of(value) for picture in pictures for name, value in picture.source.metadata.items()}
        if all(_types(picture) == {name: together[name] for name in _types(picture)} for picture in pictures):
            try:
                self._collection.bind(self._fingerprint, self._width, together)
                return pictures
            except InvalidInput:
                pass  # somebody's; whose, the next lines find
        fitting = []
        for picture in pictures:
            try:
                self._collection.bind(self._fingerprint, self._width, _types(picture))
                fitting.append(picture)
            except InvalidInput as error:
                self._failed(indexed, picture.source, error)
        return fitting

    def _failed(self, indexed: Indexed, source: Source, error: DreamqueueError) -> None:
        """One picture's own error: told, and counted."""
        indexed.errors.append({"item": source.item, "code": error.code, "message": error.message})
        self._clock.events.on_item_error(error.code)

    def _looked_at(self, new: list[_Picture], indexed: Indexed, context: RunContext) -> list[Row]:
        if not new:
            return []
        with ThreadPoolExecutor(THREADS, thread_name_prefix="keep") as keepers:
            kept = [keepers.submit(self._collections.keep, picture.loaded) for picture in new]
            with self._clock.stage("embed"):
                vectors = self._vectors(new, indexed, context)
            with self._clock.stage("keep"):  # what is not stored yet: a row must not be there before its picture
                for future in kept:
                    _result(future, context)
        now_ms = int(time.time() * 1000)
        return [
            Row(picture.loaded.id, vectors[picture.loaded.id], picture.source.metadata, now_ms)
            for picture in new
            if picture.loaded.id in vectors
        ]

    def _vectors(self, new: list[_Picture], indexed: Indexed, context: RunContext) -> dict[str, Vectors]:
        """By picture; one that the model makes NaN of is an error of its own."""
        try:
            rows = self._embedder.images(self._model, [picture.loaded.image for picture in new], Quiet(context))
            return {picture.loaded.id: row for picture, row in zip(new, rows.float().cpu().numpy(), strict=True)}
        except NonFinite as error:
            if len(new) == 1:
                self._failed(indexed, new[0].source, error)
                return {}
        return {id_: row for picture in new for id_, row in self._vectors([picture], indexed, context).items()}


def _ahead(
    sources: Sequence[Source], side_px: int, readers: ThreadPoolExecutor
) -> Iterator[tuple[Sequence[Source], list[Future[Loaded]]]]:
    """Chunk by chunk, the next one being read while this one is worked on. Pictures come as small as the model sees
    them: hundreds of large ones would fill the memory."""

    def read(source: Source) -> Loaded:
        found = source.load()
        return replace(found, image=scaled(found.image, (side_px, side_px)))

    def begun(begin: int) -> list[Future[Loaded]]:
        return [readers.submit(read, source) for source in sources[begin : begin + CHUNK]]

    coming = begun(0)
    for begin in range(0, len(sources), CHUNK):
        now, coming = coming, begun(begin + CHUNK)
        yield sources[begin : begin + CHUNK], now


def _result(future: Future[T], context: RunContext) -> T:
    while True:
        context.check()
        try:
            return future.result(timeout=0.5)
        except TimeoutError:
            if future.done():  # it ended between the two, or this is its own error
                return future.result()


def _types(picture: _Picture) -> dict[str, Any]:
    return {name: type_of(value) for name, value in picture.source.metadata.items()}
