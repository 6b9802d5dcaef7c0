"""Reading a job's events. Writing them is part of the transition scripts, so an event states a fact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import redis

from shared.records.reading import FieldReader
from shared.store import keys
from shared.store.redis import guarded

__all__ = ["Event", "EventLog"]


@dataclass(frozen=True)
class Event:
    """`id` is the stream id (`ms-seq`), which Last-Event-ID carries back.

    `type` is one of queued, started, progress, preview, log, cancelling, paused, resumed, finished. `data` always has
    `state`.
    """

    id: str
    type: str
    data: dict[str, Any]


class EventLog:
    """Read side of `dq:events:{tenant}:{id}`. Every method raises StoreUnavailable when Redis is away."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    @guarded
    def read(self, tenant: str, job_id: str, *, after: str = "0-0", block_ms: int = 0, limit: int = 100) -> list[Event]:
        """Events after stream id `after`, oldest first; waits up to `block_ms` (0: not at all) for the first."""
        reply: Any = self._redis.xread(
            {keys.events(tenant, job_id): after}, count=limit, block=block_ms if block_ms > 0 else None
        )
        if not reply:
            return []
        entries = next(iter(reply.values()))[0] if isinstance(reply, dict) else reply[0][1]
        return [_event(entry_id, fields) for entry_id, fields in entries]

    @guarded
    def last_id(self, tenant: str, job_id: str) -> str:
        """Stream id of the newest event; `0-0` when there is none. Read it before the record to miss nothing."""
        reply = cast("list[tuple[str, Any]]", self._redis.xrevrange(keys.events(tenant, job_id), count=1))
        return reply[0][0] if reply else "0-0"


def _event(entry_id: str, fields: dict[str, str]) -> Event:
    read = FieldReader(fields)
    return Event(id=entry_id, type=read.text("type", "log"), data=read.json("data", dict, {}))
