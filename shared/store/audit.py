"""Holds the sets against the records: each job is where its state says, once, and the counts add up.

Every check is one script over a bounded batch, so it sees no job in the middle of a move, and repairs what it found in
the same step, if that is provably safe: a job keeps its state, its attempt and its place in the order of claims.

A round looks at every job that waits or runs, by the sets. What no such set leads to, mostly ended jobs, is reached by
going through all keys a bounded part at a time, each round from where the last one stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import redis

from shared.settings import Settings
from shared.store import keys
from shared.store.lua import Scripts
from shared.store.redis import guarded

__all__ = ["INVARIANTS", "Audit", "Violation"]

INVARIANTS = {  # name -> (what is wrong, how it is put right; empty: it is only reported)
    "queued_nowhere": ("a queued job that no set holds", "placed anew"),
    "several_places": ("a queued job in more than one set", ""),
    "wrong_place": ("a paused job that is not held, or a held one that is not paused", ""),
    "stray_entry": ("a job in a set that its state does not allow", "taken out of it"),
    "orphan_entry": ("an entry of a set whose record is gone", "taken out of it"),
    "missing_lease": ("a running job without a lease", "given one, which runs out unless its worker beats"),
    "missing_expiry": ("an ended job that would be kept for ever", "entered with its time"),
    "missing_turn": ("a tenant with jobs in line but no turn", "given one"),
    "empty_turn": ("a turn of a tenant without jobs in line", "taken away"),
    "missing_deadline": ("a queued job whose deadline would not be noticed", "entered"),
    "finished_at": ("an end without its time, or a time without an end", ""),
    "wrong_quota": ("a count of queued jobs that is not what lies in the sets", "recounted"),
    "missing_doorbells": ("fewer doorbells than jobs that wait, beyond those in workers' hands", "rung"),
}
BATCH = 100  # jobs or entries one script looks at: about a millisecond of Redis
PAGE = 1_000  # keys or entries asked of Redis at once
ROLL_PAGES = 20  # pages of all keys, and of the ended jobs, that one round looks at
JOBS, COUNTS = keys.job("", "")[:-1], keys.queued("")  # what the names of records, and of tenants' counts, start with
COUNT_AT_MOST = 20_000  # held, delayed and suspect jobs that one recount looks through


@dataclass(frozen=True)
class Violation:
    """`subject`: the job's `tenant:id`, the tenant, or the pool."""

    invariant: str
    subject: str
    is_repaired: bool


class Audit:
    """One round is every batch of sweep(). Every method raises StoreUnavailable when Redis is away."""

    def __init__(self, client: redis.Redis, settings: Settings, *, may_repair: bool = True) -> None:
        self._redis = client
        self._run = Scripts(client, settings).run
        self._lease_ms = int(settings.lease_s * 1000)
        self._repair = "1" if may_repair else ""
        self._keys_at = self._ended_at = 0  # cursors: where the next round goes on

    @guarded
    def is_ours(self, worker: str, seconds: float) -> bool:
        """Whether this worker is the one to audit: the first to ask, and until it has not asked for so long."""
        ttl_ms = int(seconds * 1000)
        if self._redis.set(keys.auditor(), worker, nx=True, px=ttl_ms):
            return True
        if self._redis.get(keys.auditor()) != worker:
            return False
        return bool(self._redis.pexpire(keys.auditor(), ttl_ms))

    def sweep(self, in_hand: dict[str, int]) -> Iterator[list[Violation]]:
        """What each batch found. `in_hand`: pool -> doorbells that may be on their way, one per slot of a live worker.
        The caller sets the pace: nothing is asked of Redis between two batches."""
        reported: set[Violation] = set()
        for found in self._batches(in_hand):
            yield [violation for violation in found if violation not in reported]
            reported.update(found)

    def _batches(self, in_hand: dict[str, int]) -> Iterator[list[Violation]]:
        tenants: set[str] = set()
        yield from self._of_live_sets(tenants)
        yield from self._of_all_keys(tenants)
        for members in _batches(self._roll_ended()):
            yield self._found("audit_entries", keys.expiry(), "", *members)
        for names in _batches(sorted(tenants)):
            yield self._found("audit_quota", COUNT_AT_MOST, *names)
        for pool in self._pools():
            yield self._found("audit_pool", pool, in_hand.get(pool, 0))

    def _of_live_sets(self, tenants: set[str]) -> Iterator[list[Violation]]:
        """Every job that waits or runs; notes the `tenants` met."""
        for key, prefix in self._live_sets():
            for members in _batches(self._members(key)):
                refs = [prefix + member for member in members]
                tenants.update(keys.split_ref(ref)[0] for ref in refs)
                yield self._found("audit_entries", key, prefix, *members)
                yield self._found("audit_jobs", self._lease_ms, *refs)

    def _of_all_keys(self, tenants: set[str]) -> Iterator[list[Violation]]:
        """The next part of all records; notes the `tenants` that have a count."""
        for names in _batches(self._roll_keys()):
            refs = [name.removeprefix(JOBS) for name in names if name.startswith(JOBS)]
            tenants.update(name.removeprefix(COUNTS) for name in names if name.startswith(COUNTS))
            yield self._found("audit_jobs", self._lease_ms, *refs)

    @guarded
    def _found(self, script: str, *args: Any) -> list[Violation]:
        reply = iter(self._run(script, self._repair, *args))
        return [Violation(name, subject, repaired == "1") for name, subject, repaired in zip(*[reply] * 3, strict=True)]

    def _live_sets(self) -> Iterator[tuple[str, str]]:
        """(key, what makes a member a ref) of every set that holds jobs which have not ended."""
        yield from ((key, "") for key in (keys.leases(), keys.delayed(), keys.paused(), keys.deadlines()))
        for pool in self._pools():
            yield keys.suspects(pool), ""
            for tenant in self._tenants(pool):
                yield keys.ready(pool, tenant), keys.ref(tenant, "")

    def _members(self, key: str) -> Iterator[str]:
        cursor = 0
        while True:
            cursor, found = self._page(key, cursor)
            yield from found
            if not cursor:
                return

    def _roll_keys(self) -> Iterator[str]:
        for _ in range(ROLL_PAGES):
            self._keys_at, found = self._page("", self._keys_at)
            yield from found
            if not self._keys_at:
                return

    def _roll_ended(self) -> Iterator[str]:
        for _ in range(ROLL_PAGES):
            self._ended_at, found = self._page(keys.expiry(), self._ended_at)
            yield from found
            if not self._ended_at:
                return

    @guarded
    def _page(self, key: str, cursor: int) -> tuple[int, list[str]]:
        """The next cursor, and members of the zset; without a key, names of records and of tenants' counts."""
        if key:
            after, scored = cast("tuple[int, list[tuple[str, float]]]", self._redis.zscan(key, cursor, count=PAGE))
            return after, [member for member, _ in scored]
        after, names = cast("tuple[int, list[str]]", self._redis.scan(cursor, match=f"{keys.PREFIX}[jq]*", count=PAGE))
        return after, [name for name in names if name.startswith((JOBS, COUNTS))]

    @guarded
    def _pools(self) -> list[str]:
        return sorted(cast("set[str]", self._redis.smembers(keys.pools())))

    @guarded
    def _tenants(self, pool: str) -> list[str]:
        return cast("list[str]", self._redis.zrange(keys.vtime(pool), 0, -1))


def _batches(items: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        yield batch
