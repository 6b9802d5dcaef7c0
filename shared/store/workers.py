"""Workers and pools, as the store knows them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from shared.errors import UnreadableRecord
from shared.logs import get_logger
from shared.records.reading import FieldReader, record_from_json
from shared.store import keys
from shared.store.lua import ScriptedStore
from shared.store.redis import guarded

__all__ = ["FleetStore", "PoolInfo", "WorkerInfo"]

log = get_logger(__name__)


@dataclass(frozen=True)
class WorkerInfo:
    """One live worker, as it describes itself with each beat. Workers of other versions may say more, or less."""

    name: str
    pool: str
    kinds: list[str] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)  # id, family, sha256; each has an id
    device: str = "none"
    slots: int = 0
    busy: int = 0
    state: str = "ready"  # or draining; a newer worker may have others
    version: str = ""
    started_at_ms: int = 0
    metrics_port: int = 0


@dataclass(frozen=True)
class PoolInfo:
    """A pool as the store sees it."""

    name: str
    ready_jobs: int
    running_jobs: int
    doorbells: int
    workers: list[WorkerInfo]
    pace_s: dict[str, float]  # kind -> average run seconds
    suspect_jobs: int = 0  # of the ready ones, those that wait for an idle worker

    @property
    def ready_workers(self) -> int:
        """Workers that take jobs now."""
        return sum(worker.state == "ready" for worker in self.workers)


class FleetStore(ScriptedStore):
    """Thread-safe. Every method raises StoreUnavailable when Redis is down, full or too slow."""

    @guarded
    def announce(self, worker: WorkerInfo) -> None:
        """Tell that a worker lives; it is forgotten after a lease without another call."""
        self._run("announce", worker.name, worker.pool, json.dumps(asdict(worker)), self._lease_ms)

    @guarded
    def depart(self, worker_name: str) -> None:
        """Forget a worker that stops."""
        self.redis.delete(keys.worker(worker_name))
        self.redis.zrem(keys.workers(), worker_name)

    @guarded
    def workers(self) -> list[WorkerInfo]:
        """The live ones, by name. Sweeps out the dead."""
        names = cast("list[str]", self.redis.zrange(keys.workers(), 0, -1))
        if not names:
            return []
        raws = cast("list[str | None]", self.redis.mget([keys.worker(name) for name in names]))
        dead = [name for name, raw in zip(names, raws, strict=True) if raw is None]
        if dead:
            self.redis.zrem(keys.workers(), *dead)
        return sorted(_readable(names, raws), key=lambda worker: worker.name)

    @guarded
    def pools(self) -> list[PoolInfo]:
        """Every pool that ever held a job or a worker, by name."""
        workers = self.workers()
        running = self._running_by_pool()
        return [
            self._pool(name, [w for w in workers if w.pool == name], running.get(name, 0))
            for name in sorted(cast("set[str]", self.redis.smembers(keys.pools())))
        ]

    def _running_by_pool(self) -> dict[str, int]:
        pipe = self.redis.pipeline(transaction=False)
        for ref in cast("list[str]", self.redis.zrange(keys.leases(), 0, -1)):
            pipe.hget(keys.job(*keys.split_ref(ref)), "pool")
        counts: dict[str, int] = {}
        for pool in pipe.execute():
            counts[pool] = counts.get(pool, 0) + 1
        return counts

    def _pool(self, name: str, workers: list[WorkerInfo], running: int) -> PoolInfo:
        tenants = cast("list[str]", self.redis.zrange(keys.vtime(name), 0, -1))
        pipe = self.redis.pipeline(transaction=False)
        pipe.llen(keys.bell(name))
        pipe.hgetall(keys.pace(name))
        pipe.zcard(keys.suspects(name))
        for tenant in tenants:
            pipe.zcard(keys.ready(name, tenant))
        doorbells, pace, suspects, *ready = pipe.execute()
        pace_s = _numbers(pace)
        return PoolInfo(name, suspects + sum(ready), running, doorbells, workers, pace_s, suspects)

    @guarded
    def counts(self) -> dict[tuple[str, str], int]:
        """(kind, what) -> how often, since the store was made; kind `all` where it does not apply."""
        read = FieldReader(cast("dict[str, str]", self.redis.hgetall(keys.counts())))
        return {(kind, what): read.integer(name) for name in read.names for kind, _, what in [name.partition(":")]}


def _readable(names: Iterable[str], raws: Iterable[str | None]) -> Iterator[WorkerInfo]:
    """A worker that cannot be understood is left out, and hides no other."""
    for name, raw in zip(names, raws, strict=True):
        try:
            if raw:
                worker = record_from_json(WorkerInfo, raw)
                yield replace(worker, models=[model for model in worker.models if isinstance(model.get("id"), str)])
        except UnreadableRecord as error:
            log.warning("worker left out: its description cannot be read", worker=name, error=error.message)


def _numbers(raw: Mapping[str, str]) -> dict[str, float]:
    """Those of the values that are numbers."""
    found: dict[str, float] = {}
    for name, text in raw.items():
        with suppress(ValueError):
            found[name] = float(text)
    return found
