"""`python -m tests.faults.future_worker`: a worker of a version to come, as far as others can tell: whatever it writes
holds more than this version knows. It announces what no worker of today has, and the record of each job that it claims
gets fields, spec members and snapshot notes of the future, which stay there when it dies.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from shared.records.job import Claim
from shared.settings import Settings
from shared.store import keys
from shared.store.jobs import JobStore, Signal
from shared.store.workers import FleetStore
from tests.faults import effects
from worker import node

__all__ = ["FutureStore", "main"]


class FutureFleet(FleetStore):
    """Announces what today's readers do not know."""

    def announce(self, worker: Any) -> None:
        """With members, a kind and a model that are not of today."""
        super().announce(worker)
        told = {**asdict(worker), "gpu_memory_bytes": 2**36, "links": {"fast": True}}
        told["kinds"] = [*worker.kinds, "hologram"]
        told["models"] = [*worker.models, {"id": "hologram-1", "variants": []}]
        self.redis.set(keys.worker(worker.name), json.dumps(told), px=self._lease_ms)


class FutureStore(JobStore):
    """Writes what today's readers do not know."""

    def __init__(self, client: Any, settings: Settings) -> None:
        super().__init__(client, settings)
        self.fleet = FutureFleet(client, settings)

    def claim(self, *arguments: Any, **options: Any) -> Any:
        """The record is of the future from now on."""
        claim = super().claim(*arguments, **options)
        if isinstance(claim, Claim):
            spec = json.dumps({**claim.spec, "colour_space": "p3"})
            self.redis.hset(keys.job(claim.tenant, claim.id), mapping={"spec": spec, "lane": "fast"})
        return claim

    def note_snapshot(self, claim: Claim, saved: Any) -> Signal:
        """With a member more."""
        signal = super().note_snapshot(claim, saved)
        if signal is not Signal.LOST:
            note = json.dumps({**asdict(saved), "codec": "zstd"})
            self.redis.hset(keys.job(claim.tenant, claim.id), "snapshot", note)
        return signal


def main() -> int:
    """Run it, under the same observation as the others."""
    node.JobStore = FutureStore  # type: ignore[attr-defined, misc]
    return effects.main()


if __name__ == "__main__":
    raise SystemExit(main())
