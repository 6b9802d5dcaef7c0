"""Whose lease is reaped: not one that ran out while nobody could beat, and whom a loss is blamed on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.records.job import Claim, JobState
from shared.settings import Settings
from shared.store import keys
from shared.store.jobs import JobStore, Signal
from shared.store.redis import connect
from shared.store.workers import WorkerInfo
from tests.support.servers import RedisServer
from tests.support.workers import submit

OUTAGE_MS = 30_000


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobStore]:
    """On a Redis whose sweeps are these tests' own; default times: lease 15 s, beat 4 s."""
    server = RedisServer(tmp_path_factory.mktemp("sweeps"))
    settings = Settings(redis_url=server.url)
    client = connect(settings)
    yield JobStore(client, settings)
    client.close()
    server.process.stop()


@pytest.fixture
def store(own: JobStore) -> JobStore:
    own.redis.flushall()
    own.sweeps.reap()
    return own


def started(store: JobStore, worker: str = "w") -> Claim:
    submit(store, "ant", "p")
    claim = store.claim("p", worker)
    assert claim is not None
    return claim


def end_lease(store: JobStore, claim: Claim) -> int:
    """It ran out a second ago; when."""
    ended_at = store.now_ms() - 1_000
    store.redis.zadd("dq:leases", {keys.ref(claim.tenant, claim.id): ended_at})
    return ended_at


def swept(store: JobStore, ms_ago: int) -> None:
    """That long ago was the last sweep."""
    store.redis.hset("dq:sweep", "at", store.now_ms() - ms_ago)


def spared(store: JobStore, until_ms_from_now: int) -> None:
    store.redis.hset("dq:sweep", "spared_until", store.now_ms() + until_ms_from_now)


class TestOutage:
    """Redis was away or frozen: its first clients may be reapers, before any holder could beat."""

    def test_holders_get_a_beat_first(self, store: JobStore) -> None:
        alive, dead = started(store), started(store)
        end_lease(store, alive)
        end_lease(store, dead)
        swept(store, OUTAGE_MS)
        before_ms = store.now_ms()
        assert store.sweeps.reap().requeued == 0
        after_ms = store.now_ms()
        for _ in range(3):  # as many reapers as like
            assert store.sweeps.reap().requeued == 0
        spared_until = int(store.redis.hget("dq:sweep", "spared_until"))
        assert before_ms + 6_000 <= spared_until <= after_ms + 6_000, "a beat and a time-out from the first sweep on"
        assert store.beat([alive]) == [Signal.OK]
        spared(store, -1)
        assert store.sweeps.reap().requeued == 1
        assert store.get("ant", alive.id).state is JobState.RUNNING
        assert (store.get("ant", dead.id).state, store.get("ant", dead.id).losses) == (JobState.QUEUED, 1)

    def test_without_one_nothing_waits(self, store: JobStore) -> None:
        end_lease(store, started(store))
        swept(store, 2_500)  # slow sweeps, but sweeps
        assert store.sweeps.reap().requeued == 1

    def test_slow_sweeps_do_not_put_it_off_for_ever(self, store: JobStore) -> None:
        end_lease(store, started(store))
        swept(store, 5_500)
        assert store.sweeps.reap().requeued == 0
        swept(store, 5_500)
        spared(store, -1_000)
        assert store.sweeps.reap().requeued == 1

    def test_a_clock_set_back_does_not_either(self, store: JobStore) -> None:
        end_lease(store, started(store))
        swept(store, -600_000)
        spared(store, 600_000)
        assert store.sweeps.reap().requeued == 1

    def test_deadlines_do_not_wait(self, store: JobStore) -> None:
        job_id = submit(store, "ant", "p", deadline_s=60)
        store.redis.zadd("dq:deadlines", {f"ant:{job_id}": 1})
        swept(store, OUTAGE_MS)
        assert store.sweeps.reap().expired == 1


class TestBlame:
    """A lease can run out with its worker alive: the claim's reply was lost on the way."""

    @staticmethod
    def announce(store: JobStore, started_at_ms: int = 5) -> None:
        store.fleet.announce(WorkerInfo("w", "p", ["probe"], [], "cpu", 1, 0, "ready", "1", started_at_ms))

    @staticmethod
    def outcome(store: JobStore, claim: Claim) -> tuple[JobState, int]:
        store.sweeps.reap()
        record = store.get("ant", claim.id)
        assert [attempt.outcome for attempt in record.attempts] == ["lost"]
        return record.state, record.losses

    def test_a_worker_heard_of_since_is_not_lost(self, store: JobStore) -> None:
        self.announce(store)
        claim = started(store)
        end_lease(store, claim)
        self.announce(store)
        assert self.outcome(store, claim) == (JobState.QUEUED, 0)

    def test_one_silent_since_its_last_beat_is(self, store: JobStore) -> None:
        self.announce(store)
        claim = started(store)
        lease_began_at = end_lease(store, claim) - 15_000
        store.redis.zadd("dq:workers", {"w": lease_began_at + 4_000})  # died within a beat, as poison kills
        assert self.outcome(store, claim) == (JobState.QUEUED, 1)

    def test_its_successor_of_the_same_name_does_not_speak_for_it(self, store: JobStore) -> None:
        self.announce(store)
        claim = started(store)
        end_lease(store, claim)
        self.announce(store, started_at_ms=6)
        assert self.outcome(store, claim) == (JobState.QUEUED, 1)

    def test_one_that_says_it_dies_is_believed(self, store: JobStore) -> None:
        self.announce(store)
        claim = started(store)
        store.abandon(claim)
        self.announce(store)
        assert self.outcome(store, claim) == (JobState.QUEUED, 1)
