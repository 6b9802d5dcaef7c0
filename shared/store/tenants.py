"""Tenants as the queue knows them: their share of the workers, and how much they have waiting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import redis

from shared.errors import InvalidInput
from shared.records.reading import FieldReader
from shared.store import keys
from shared.store.redis import guarded

__all__ = ["HEAVIEST", "Tenant", "Tenants"]

HEAVIEST = 10  # times the share of a tenant of weight 1; scripts/lib/fairness.lua divides by every weight up to this


@dataclass(frozen=True)
class Tenant:
    """While several tenants wait, each gets workers in proportion to its weight."""

    name: str
    weight: int
    queued: int


class Tenants:
    """For operators. Every method raises StoreUnavailable when Redis is away."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    @guarded
    def set_weight(self, name: str, weight: int) -> None:
        """Give a tenant its share, from its next claimed job on. Raises InvalidInput."""
        if not 1 <= weight <= HEAVIEST:
            raise InvalidInput(
                f"a weight is a whole number from 1 to {HEAVIEST}", field="weight", limit=f"1..{HEAVIEST}"
            )
        self._redis.hset(keys.weight(), name, str(weight))

    @guarded
    def list(self) -> list[Tenant]:
        """Every tenant that ever had a job, or has a weight; by name. Scans the keys: not for requests."""
        weights = cast("dict[str, str]", self._redis.hgetall(keys.weight()))
        names = {str(key).removeprefix(keys.jobs("")) for key in self._redis.scan_iter(keys.jobs("*"), count=500)}
        found = sorted(names | set(weights))
        queued = cast("list[str | None]", self._redis.mget([keys.queued(name) for name in found])) if found else []
        weight = FieldReader(weights)
        return [Tenant(name, weight.integer(name, 1), int(n or 0)) for name, n in zip(found, queued, strict=True)]
