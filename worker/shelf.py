"""Outputs that could not be uploaded, kept for the job's next attempt, so that no device work is repeated."""

from __future__ import annotations

import threading
from collections import OrderedDict

from shared import keys
from shared.jobs import Claim
from worker.artifacts import Rendered

__all__ = ["Shelf"]

CAPACITY_BYTES = 256 * 2**20


class Shelf:
    """In memory; the oldest go first when it is full. A job that comes back to another worker is computed again."""

    def __init__(self, capacity_bytes: int = CAPACITY_BYTES) -> None:
        self._capacity = capacity_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Rendered] = OrderedDict()

    def put(self, claim: Claim, rendered: Rendered) -> None:
        """Keep what this run made."""
        with self._lock:
            self._kept[keys.ref(claim.tenant, claim.id)] = rendered
            while self._kept and sum(item.bytes for item in self._kept.values()) > self._capacity:
                self._kept.popitem(last=False)

    def take(self, claim: Claim) -> Rendered | None:
        """What an earlier attempt of this job made here, if anything."""
        if not self._kept:
            return None
        with self._lock:
            return self._kept.pop(keys.ref(claim.tenant, claim.id), None)
