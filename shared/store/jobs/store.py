"""JobStore: every move of a job, each one Lua script, on one Redis.

Errors of Redis become StoreUnavailable (shared/store/redis.py). Writes are never repeated blindly: an unanswered
submit is ambiguous, and the caller's idempotency key makes sending it again safe.
"""

from __future__ import annotations

import redis

from shared.settings import Settings
from shared.store.jobs.calls import CallerSide
from shared.store.jobs.leases import WorkerSide
from shared.store.jobs.sweeps import Sweeps
from shared.store.redis import guarded
from shared.store.workers import FleetStore

__all__ = ["JobStore"]


class JobStore(CallerSide, WorkerSide):
    """Both sides of a job; `fleet` knows the workers and pools, `sweeps` are the housekeeping. Thread-safe. Every
    method, of these too, raises StoreUnavailable when Redis is down, full or too slow."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        super().__init__(client, settings)
        self.fleet = FleetStore(client, settings)
        self.sweeps = Sweeps(client, settings)

    @guarded
    def ping(self) -> None:
        """Raise StoreUnavailable unless Redis answers."""
        self.redis.ping()
