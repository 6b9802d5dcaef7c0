"""The auditor finds what is planted, mends what it may, and leaves the rest alone."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.metrics import INVARIANT_VIOLATIONS
from shared.records.job import JobState, NewJob
from shared.settings import Settings
from shared.store import keys
from shared.store.audit import INVARIANTS, Audit, Violation
from shared.store.jobs import JobStore
from shared.store.redis import connect
from tests.support.servers import RedisServer
from worker.maintenance.auditor import Auditor

ONE, TWO = "ant", "bee"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of these tests' own: an audit looks at all of it."""
    server = RedisServer(tmp_path_factory.mktemp("audit"))
    yield server
    server.process.stop()


@pytest.fixture
def own(server: RedisServer) -> Settings:
    return Settings(redis_url=server.url, worker_name="w1")


@pytest.fixture
def store(own: Settings) -> Iterator[JobStore]:
    """With a job in each place where one can be."""
    client = connect(own)
    client.flushall()
    store = JobStore(client, own)
    for tenant in (ONE, TWO):
        for _ in range(6):
            give(store, tenant)
    fill(store)
    yield store
    client.close()


def give(store: JobStore, tenant: str) -> str:
    return store.submit(NewJob(str(uuid.uuid4()), tenant, "probe", "p", {}, deadline_s=3600)).id


def fill(store: JobStore) -> None:
    """One each: ended, waiting for a retry, running, held, suspect; the rest stays in line."""
    for what in ("ended", "delayed", "running"):
        claim = store.claim("p", "w")
        assert claim is not None
        if what == "ended":
            store.commit(claim, {}, {})
        if what == "delayed":
            error = {"code": "probe_failed", "message": "no", "retryable": True}
            store.fail(claim, error, delay_s=3600)
    for losses in (0, 2):
        tenant, job_id = keys.split_ref(ref_in(store, "line"))
        store.redis.hset(keys.job(tenant, job_id), "losses", losses)
        store.pause(tenant, job_id)
        if losses:
            store.resume(tenant, job_id)


PLACES = {"held": "dq:held", "delayed": "dq:delayed", "suspects": "dq:suspects:p", "running": "dq:leases",
          "ended": "dq:expiry"}  # fmt: skip


def ref_in(store: JobStore, place: str) -> str:
    """A job that is there."""
    if place == "line":
        return keys.ref(ONE, store.redis.zrange(f"dq:ready:p:{ONE}", 0, 0)[0])
    return str(store.redis.zrange(PLACES[place], 0, 0)[0])


def found(store: JobStore, own: Settings, *, may_repair: bool = True, in_hand: int = 0) -> list[Violation]:
    audit = Audit(store.redis, own, may_repair=may_repair)
    return [violation for batch in audit.sweep({"p": in_hand}) for violation in batch]


def test_a_sound_store_has_nothing(store: JobStore, own: Settings) -> None:
    store.sweeps.promote()
    assert found(store, own) == []


def lose_from(place: str) -> Callable[[JobStore], str]:
    def plant(store: JobStore) -> str:
        ref = ref_in(store, place)
        if place == "line":
            store.redis.zrem(f"dq:ready:p:{ONE}", keys.split_ref(ref)[1])
        else:
            store.redis.zrem(PLACES[place], ref)
        return ref

    return plant


def put_in(place: str, key: str) -> Callable[[JobStore], str]:
    def plant(store: JobStore) -> str:
        ref = ref_in(store, place)
        store.redis.zadd(key, {ref: 10**14})
        return ref

    return plant


def put_in_line(place: str) -> Callable[[JobStore], str]:
    def plant(store: JobStore) -> str:
        ref = ref_in(store, place)
        tenant, job_id = keys.split_ref(ref)
        store.redis.zadd(f"dq:ready:p:{tenant}", {job_id: 1})
        return ref

    return plant


def orphan(key: str) -> Callable[[JobStore], str]:
    def plant(store: JobStore) -> str:
        store.redis.zadd(key, {"gone" if key.startswith("dq:ready:") else f"{ONE}:gone": 10**14})
        return f"{ONE}:gone"

    return plant


def change(place: str, field: str, value: str) -> Callable[[JobStore], str]:
    def plant(store: JobStore) -> str:
        ref = ref_in(store, place)
        store.redis.hset(keys.job(*keys.split_ref(ref)), field, value)
        return ref

    return plant


def lose_turn(store: JobStore) -> str:
    store.redis.zrem("dq:turn:p", ONE)
    return f"p:{ONE}"


def empty_turn(store: JobStore) -> str:
    store.redis.zadd("dq:turn:p", {"nobody": 5})
    return "p:nobody"


def lose_deadline(store: JobStore) -> str:
    ref = ref_in(store, "line")
    store.redis.zrem("dq:deadlines", ref)
    return ref


def miscount(store: JobStore) -> str:
    store.redis.incrby(f"dq:queued:{TWO}", 7)
    return TWO


def lose_doorbells(store: JobStore) -> str:
    store.redis.delete(keys.bell("p"))
    return "p"


PLANTED = [
    ("queued_nowhere", lose_from("line"), True),
    ("queued_nowhere", lose_from("suspects"), True),
    ("queued_nowhere", lose_from("held"), True),
    ("queued_nowhere", lose_from("delayed"), True),
    ("missing_lease", lose_from("running"), True),
    ("missing_expiry", lose_from("ended"), True),
    ("stray_entry", put_in("ended", "dq:held"), True),
    ("stray_entry", put_in("ended", "dq:leases"), True),
    ("stray_entry", put_in("ended", "dq:deadlines"), True),
    ("stray_entry", put_in("running", "dq:deadlines"), True),
    ("stray_entry", put_in("running", "dq:delayed"), True),
    ("stray_entry", put_in("held", "dq:leases"), True),
    ("stray_entry", put_in_line("ended"), True),
    ("stray_entry", put_in_line("running"), True),
    ("several_places", put_in("held", "dq:delayed"), False),
    ("several_places", put_in_line("delayed"), False),
    ("wrong_place", change("line", "paused", "1"), False),
    ("wrong_place", change("held", "paused", ""), False),
    ("finished_at", change("ended", "finished_at", ""), False),
    ("finished_at", change("running", "finished_at", "5"), False),
    ("orphan_entry", orphan("dq:leases"), True),
    ("orphan_entry", orphan("dq:expiry"), True),
    ("orphan_entry", orphan("dq:suspects:p"), True),
    ("orphan_entry", orphan(f"dq:ready:p:{ONE}"), True),
    ("missing_turn", lose_turn, True),
    ("empty_turn", empty_turn, True),
    ("missing_deadline", lose_deadline, True),
    ("wrong_quota", miscount, True),
    ("missing_doorbells", lose_doorbells, True),
]


def test_every_invariant_is_planted_here() -> None:
    assert {invariant for invariant, *_ in PLANTED} == set(INVARIANTS)
    assert {invariant for invariant, _, is_repaired in PLANTED if is_repaired} == {
        name for name, (_, repair) in INVARIANTS.items() if repair
    }


@pytest.mark.parametrize(("invariant", "plant", "is_repaired"), PLANTED)
def test_what_is_planted_is_found(
    invariant: str, plant: Callable[[JobStore], str], is_repaired: bool, store: JobStore, own: Settings
) -> None:
    states = {job.id: job.state for tenant in (ONE, TWO) for job in store.list_jobs(tenant).jobs}
    subject = plant(store)
    looked = found(store, own, may_repair=False)
    assert Violation(invariant, subject, False) in looked
    assert found(store, own, may_repair=False) == looked, "looking changes nothing"
    mended = found(store, own)
    assert Violation(invariant, subject, is_repaired) in mended
    after = found(store, own)
    assert after == ([] if is_repaired else [violation for violation in mended if not violation.is_repaired])
    now = {job.id: job.state for tenant in (ONE, TWO) for job in store.list_jobs(tenant).jobs}
    assert now == states, "no repair changes a job's state"


def test_a_mended_job_runs(store: JobStore, own: Settings) -> None:
    lost = {lose_from("line")(store), lose_from("suspects")(store)}
    found(store, own)
    claimed = set()
    while claim := store.claim("p", "w", is_idle=True):
        assert not isinstance(claim, str)
        claimed.add(keys.ref(claim.tenant, claim.id))
    assert lost <= claimed


def test_a_mended_lease_runs_out(store: JobStore, own: Settings) -> None:
    ref = lose_from("running")(store)
    found(store, own)
    store.redis.zadd("dq:leases", {ref: 1})
    store.sweeps.reap()
    assert store.get(*keys.split_ref(ref)).state is JobState.QUEUED


def test_doorbells_in_workers_hands_are_not_missing(store: JobStore, own: Settings) -> None:
    (pool,) = store.fleet.pools()
    assert pool.suspect_jobs == 1, "whose bell a busy worker may have answered: it is not missed"
    store.redis.ltrim(keys.bell("p"), 0, pool.ready_jobs - 2)
    assert found(store, own, in_hand=0, may_repair=False) == []
    store.redis.ltrim(keys.bell("p"), 0, pool.ready_jobs - 3)  # one less than there are jobs in line
    assert found(store, own, in_hand=1, may_repair=False) == []
    assert [violation.invariant for violation in found(store, own, in_hand=0)] == ["missing_doorbells"]


def test_ended_jobs_are_gone_through_over_the_rounds(
    store: JobStore, own: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round sees every live job, and a part of all keys; the next goes on from there."""
    monkeypatch.setattr("shared.store.audit.PAGE", 4)
    monkeypatch.setattr("shared.store.audit.ROLL_PAGES", 1)
    audit = Audit(store.redis, own)
    lost = lose_from("ended")(store)
    store.redis.zadd("dq:deadlines", {ref_in(store, "running"): 10**14})
    rounds = [[violation for batch in audit.sweep({}) for violation in batch] for _ in range(30)]
    assert Violation("stray_entry", ref_in(store, "running"), True) in rounds[0], "a job that runs is not waited for"
    (number,) = [n for n, found in enumerate(rounds) if Violation("missing_expiry", lost, True) in found]
    assert store.redis.dbsize() > 8
    assert number <= store.redis.dbsize()


def test_one_worker_audits_and_counts(store: JobStore, own: Settings) -> None:
    first, second = Auditor(store, own), Auditor(store, own.model_copy(update={"worker_name": "w2"}))
    counter = INVARIANT_VIOLATIONS.labels("wrong_quota")
    before = counter._value.get()
    first.audit()
    miscount(store)
    second.audit()
    assert counter._value.get() == before, "not its turn"
    first.audit()
    assert counter._value.get() == before + 1
    store.redis.delete("dq:auditor")  # as when the first has died
    miscount(store)
    second.audit()
    assert counter._value.get() == before + 2


def test_the_runbook_names_every_invariant() -> None:
    page = Path("deploy/RUNBOOK.md").read_text()
    for name, (what, _) in INVARIANTS.items():
        assert f"| `{name}` | {what} |" in page
