"""Sweeps over all jobs: leases that ran out, retries that are due, results past their retention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from shared.store import keys
from shared.store.lua import ScriptedStore
from shared.store.redis import guarded

__all__ = ["Reaped", "Sweeps"]

SLOW_SWEEP_S = 2.0  # a sweep may come so much later than its period before it looks like an outage


@dataclass(frozen=True)
class Reaped:
    """What one sweep did."""

    requeued: int = 0
    worker_lost: int = 0
    cancelled: int = 0
    expired: int = 0
    deadline_exceeded: int = 0


class Sweeps(ScriptedStore):
    """Each may be run anywhere, by any number of processes at once. Thread-safe."""

    @guarded
    def reap(self, limit: int = 100) -> Reaped:
        """Requeue or fail jobs whose lease ran out; expire queued jobs whose deadline passed. Safe to run anywhere.
        When no worker had reached Redis for a while, leases are left alone until each live one could beat again."""
        gap_s = max(self._settings.lease_s / 3, self._settings.reap_period_s + SLOW_SWEEP_S)
        grace_s = self._settings.beat_s + self._settings.redis_timeout_s
        return Reaped(
            *(int(n) for n in self._run("reap", limit, self._lease_ms, int(gap_s * 1000), int(grace_s * 1000)))
        )

    @guarded
    def promote(self, limit: int = 100) -> tuple[int, int]:
        """(retries made ready, doorbells rung because some were missing)."""
        promoted, rung = self._run("promote", limit)
        return int(promoted), int(rung)

    @guarded
    def due_for_expiry(self, limit: int = 100) -> list[tuple[str, str]]:
        """(tenant, id) of ended jobs whose retention is over. Delete their artifacts, then forget() them."""
        due = self.redis.zrange(keys.expiry(), "-inf", self.now_ms(), byscore=True, offset=0, num=limit)
        return [keys.split_ref(ref) for ref in cast("list[str]", due)]

    @guarded
    def forget(self, tenant: str, job_id: str) -> None:
        """Drop the record of an expired job; its id answers Expired from now on."""
        self._run("forget", keys.ref(tenant, job_id))
