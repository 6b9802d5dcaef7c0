"""Workers and pools, as the store knows them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, cast

import redis

from shared import keys
from shared.connection import guarded
from shared.lua import Scripts
from shared.settings import Settings

__all__ = ["FleetStore", "PoolInfo", "WorkerInfo"]


@dataclass(frozen=True)
class WorkerInfo:
    """One live worker, as it describes itself with each beat."""

    name: str
    pool: str
    kinds: list[str]
    models: list[dict[str, Any]]  # id, family, sha256
    device: str
    slots: int
    busy: int
    state: str  # ready or draining
    version: str
    started_at_ms: int
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


class FleetStore:
    """Thread-safe. Every method raises StoreUnavailable when Redis is down, full or too slow."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self.redis = client
        self._settings = settings
        self._lease_ms = int(settings.lease_s * 1000)
        self._run = Scripts(client, settings).run

    @guarded
    def announce(self, worker: WorkerInfo) -> None:
        """Tell that a worker lives; it is forgotten after a lease without another call."""
        self._run("announce", worker.name, worker.pool, json.dumps(asdict(worker)), self._lease_ms)

    @guarded
    def depart(self, worker_name: str) -> None:
        """Forget a worker that stops."""
        self.redis.delete(keys.worker(worker_name))
        self.redis.zrem("dq:workers", worker_name)

    @guarded
    def workers(self) -> list[WorkerInfo]:
        """The live ones, by name. Sweeps out the dead."""
        names = cast("list[str]", self.redis.zrange("dq:workers", 0, -1))
        if not names:
            return []
        raws = cast("list[str | None]", self.redis.mget([keys.worker(name) for name in names]))
        dead = [name for name, raw in zip(names, raws, strict=True) if raw is None]
        if dead:
            self.redis.zrem("dq:workers", *dead)
        return sorted((WorkerInfo(**json.loads(raw)) for raw in raws if raw), key=lambda worker: worker.name)

    @guarded
    def pools(self) -> list[PoolInfo]:
        """Every pool that ever held a job or a worker, by name."""
        workers = self.workers()
        running = self._running_by_pool()
        return [
            self._pool(name, [w for w in workers if w.pool == name], running.get(name, 0))
            for name in sorted(cast("set[str]", self.redis.smembers("dq:pools")))
        ]

    def _running_by_pool(self) -> dict[str, int]:
        pipe = self.redis.pipeline(transaction=False)
        for ref in cast("list[str]", self.redis.zrange("dq:leases", 0, -1)):
            pipe.hget(f"dq:job:{ref}", "pool")
        counts: dict[str, int] = {}
        for pool in pipe.execute():
            counts[pool] = counts.get(pool, 0) + 1
        return counts

    def _pool(self, name: str, workers: list[WorkerInfo], running: int) -> PoolInfo:
        tenants = cast("list[str]", self.redis.zrange(f"dq:turn:{name}", 0, -1))
        pipe = self.redis.pipeline(transaction=False)
        pipe.llen(keys.bell(name))
        pipe.hgetall(f"dq:pace:{name}")
        pipe.zcard(f"dq:suspects:{name}")
        for tenant in tenants:
            pipe.zcard(f"dq:ready:{name}:{tenant}")
        doorbells, pace, suspects, *ready = pipe.execute()
        pace_s = {kind: float(mean) for kind, mean in pace.items()}
        return PoolInfo(name, suspects + sum(ready), running, doorbells, workers, pace_s, suspects)

    @guarded
    def counts(self) -> dict[tuple[str, str], int]:
        """(kind, what) -> how often, since the store was made; kind `all` where it does not apply."""
        raw = cast("dict[str, str]", self.redis.hgetall("dq:counts"))
        return {cast("tuple[str, str]", tuple(name.split(":", 1))): int(value) for name, value in raw.items()}

    @guarded
    def ping(self) -> None:
        """Raise StoreUnavailable unless Redis answers."""
        self.redis.ping()
