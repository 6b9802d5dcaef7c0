"""Which collections there are and what they hold, by tenant. The vectors lie elsewhere (worker/vectors); this record
says in which table, made by which model, and how often it changed.

Every method of CollectionStore raises StoreUnavailable when Redis is down, full or too slow.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, cast, get_args

import redis

from shared.errors import CollectionMoved, Conflict, InvalidInput, NotFound, UnreadableRecord
from shared.logs import get_logger
from shared.records.collection import Collection
from shared.records.reading import FieldReader
from shared.settings import Settings
from shared.specs.filters import MAX_FIELDS_OF_TYPE, Column, FieldType
from shared.store import keys
from shared.store.lua import Scripts
from shared.store.redis import guarded

__all__ = ["MAX_COLLECTIONS", "CollectionStore"]

log = get_logger(__name__)

MAX_COLLECTIONS = 1_000  # of one tenant


class CollectionStore:
    """Thread-safe."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._redis = client
        self._scripts = Scripts(client, settings)

    @guarded
    def create(
        self, tenant: str, name: str, model: str, *, fingerprint: str = "", description: str = ""
    ) -> tuple[Collection, bool]:
        """The collection, and whether it is new. Raises Conflict where it exists with another model, InvalidInput where
        the tenant has too many."""
        made = self._scripts.run(
            "collection_create", tenant, name, uuid.uuid4().hex, _table(), model, fingerprint, description,
            MAX_COLLECTIONS,
        )  # fmt: skip
        if made == "full":
            raise InvalidInput("you have too many collections", field="name", limit=f"{MAX_COLLECTIONS} collections")
        found = self.get(tenant, name)
        if found.model != model:
            raise Conflict(f"the collection {name} exists, with the model {found.model}")
        return found, made == "created"

    @guarded
    def get(self, tenant: str, name: str) -> Collection:
        """Raises NotFound: unknown, or another tenant's; UnreadableRecord."""
        raw = cast("dict[str, str]", self._redis.hgetall(keys.collection(tenant, name)))
        if not raw:
            raise NotFound(f"no collection {name}")
        return _collection(tenant, name, raw)

    @guarded
    def all(self, tenant: str) -> list[Collection]:
        """The tenant's, oldest first."""
        names = cast("list[str]", self._redis.zrange(keys.collections(tenant), 0, -1))
        pipe = self._redis.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(keys.collection(tenant, name))
        found = zip(names, cast("list[dict[str, str]]", pipe.execute()), strict=True)
        return [collection for name, raw in found if raw and (collection := _readable(tenant, name, raw))]

    @guarded
    def bind(self, collection: Collection, fingerprint: str, width: int, fields: Mapping[str, FieldType]) -> Collection:
        """Settle what vectors and metadata it holds, before they are written; as it is then. Raises NotFound where it
        was deleted, Conflict where it holds another model's vectors, InvalidInput for a field of another type."""
        code, *rest = self._scripts.run(
            "collection_bind", collection.tenant, collection.name, collection.id, fingerprint, width,
            json.dumps(dict(fields)), MAX_FIELDS_OF_TYPE,
        )  # fmt: skip
        if code == "gone":
            raise NotFound(f"the collection {collection.name} was deleted")
        if code == "model":
            raise Conflict(
                f"the collection {collection.name} holds vectors of {collection.model} with other weights than this "
                "worker's; re-embed it"
            )
        if code == "type":
            raise InvalidInput(
                f"the metadata field {rest[0]} holds a {rest[1]} in this collection", field=f"metadata.{rest[0]}",
                limit=f"a {rest[1]}",
            )  # fmt: skip
        if code == "fields":
            raise InvalidInput(
                f"the collection has no room for the metadata field {rest[0]}", field=f"metadata.{rest[0]}",
                limit=f"{MAX_FIELDS_OF_TYPE} fields of strings, as many of numbers and booleans",
            )  # fmt: skip
        return self.get(collection.tenant, collection.name)

    @guarded
    def note(self, collection: Collection, *, version: int, rows: int, bytes_: int) -> None:
        """Its table was written. Raises NotFound where it was deleted meanwhile, CollectionMoved where it has another
        table now: what was written must be written again, there."""
        reply = self._scripts.run(
            "collection_note", collection.tenant, collection.name, collection.table, version, rows, bytes_
        )
        if reply == "gone":
            raise NotFound(f"the collection {collection.name} was deleted")
        if reply == "moved":
            raise CollectionMoved(f"the collection {collection.name} was re-embedded meanwhile")

    @guarded
    def prepare(self, collection: Collection, table: str) -> None:
        """Name the table of a re-embedding, which then belongs to the collection. Raises NotFound, and Conflict where
        another re-embedding took over."""
        reply = self._scripts.run("collection_prepare", collection.tenant, collection.name, collection.id, table)
        if reply == "gone":
            raise NotFound(f"the collection {collection.name} was deleted")
        if reply == "dropped":
            raise Conflict(f"another re-embedding of {collection.name} took over")

    @guarded
    def abandon(self, collection: Collection, table: str) -> None:
        """A re-embedding ended without a switch: its table goes."""
        self._scripts.run("collection_abandon", collection.tenant, collection.name, collection.id, table)

    @guarded
    def switch(
        self, seen: Collection, table: str, *, model: str, fingerprint: str, width: int, version: int, rows: int,
        bytes_: int,
    ) -> bool:  # fmt: skip
        """Make `table` the collection's; False where it has changed since it was `seen`. Raises NotFound where it was
        deleted, or another re-embedding took over."""
        reply = self._scripts.run(
            "collection_switch", seen.tenant, seen.name, seen.id, table, seen.changes, model, fingerprint, width,
            version, rows, bytes_,
        )  # fmt: skip
        if reply == "gone":
            raise NotFound(f"the collection {seen.name} was deleted, or is re-embedded by another job")
        return bool(reply == "ok")

    @guarded
    def delete(self, tenant: str, name: str) -> None:
        """Gone at once. Raises NotFound."""
        if not self._scripts.run("collection_delete", tenant, name):
            raise NotFound(f"no collection {name}")

    @guarded
    def dropped(self, older_than_s: float) -> list[str]:
        """Tables that belong to nothing any more, since that long."""
        seconds, _ = self._redis.time()
        until = (seconds - older_than_s) * 1000
        return cast("list[str]", self._redis.zrange(keys.dropped(), "-inf", until, byscore=True, offset=0, num=100))

    @guarded
    def take_due(self, rest_s: float, within_s: float = 600.0) -> Collection | None:
        """A collection whose table many small writes may have left in pieces, first written to `rest_s` ago. Nobody
        else gets it for `within_s`, unless compacted() says that it is done."""
        while found := self._scripts.run("collection_due", int(rest_s * 1000), int(within_s * 1000)):
            tenant, name = keys.split_ref(found[0])
            try:
                return self.get(tenant, name)
            except (NotFound, UnreadableRecord):
                self._redis.zrem(keys.uncompacted(), found[0])
        return None

    @guarded
    def compacted(self, collection: Collection, versions_kept_s: float) -> None:
        """It is; once more when the versions of its last writes may be forgotten."""
        self._scripts.run(
            "collection_compacted", collection.tenant, collection.name, collection.changes, int(versions_kept_s * 1000)
        )

    @guarded
    def forget(self, table: str) -> None:
        """A dropped table is no more."""
        self._redis.zrem(keys.dropped(), table)


def _table() -> str:
    return f"c{uuid.uuid4().hex}"


def _readable(tenant: str, name: str, raw: Mapping[str, str]) -> Collection | None:
    """None, with a line in the log: one damaged record hides no other."""
    try:
        return _collection(tenant, name, raw)
    except UnreadableRecord as error:
        log.warning("collection left out: its record cannot be read", tenant=tenant, name=name, error=error.message)
        return None


def _collection(tenant: str, name: str, raw: Mapping[str, str]) -> Collection:
    read = FieldReader(raw)
    collection = Collection(
        tenant=tenant,
        name=name,
        id=read.required("id"),
        table=read.required("table"),
        model=read.required("model"),
        fingerprint=read.text("fingerprint"),
        width=read.integer("width"),
        rows=read.integer("rows"),
        bytes=read.integer("bytes"),
        version=read.integer("version"),
        changes=read.integer("changes"),
        created_at_ms=read.integer("created_at"),
        changed_at_ms=read.integer("changed_at"),
        description=read.text("description"),
        next_table=read.text("next_table"),
        columns=dict(_columns(read.json("fields", dict, {}))),
    )
    if read.unreadable:  # rows written by a guess at its columns would be wrong for ever
        raise UnreadableRecord(f"the record of the collection {name} cannot be read: {', '.join(read.unreadable)}")
    return collection


def _columns(fields: Mapping[str, Any]) -> Iterator[tuple[str, Column]]:
    """Metadata fields of a type that only a newer version has cannot be filtered by."""
    for name, described in fields.items():
        match described:
            case [str(type_), int(slot), *_] if type_ in get_args(FieldType):
                yield name, Column(cast("FieldType", type_), slot)
