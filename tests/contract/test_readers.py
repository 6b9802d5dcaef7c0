"""Records of other versions, and damaged ones. Every reader ignores what it does not know; what nobody can read ends
its own job, and nobody else's call."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import MISSING, asdict, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.http.auth import KeyStore
from deploy.local.servers import Credentials
from shared.errors import UnreadableRecord
from shared.records.job import Claim, JobRecord, JobState, SavedRun
from shared.records.reading import record_from_json
from shared.settings import Settings
from shared.store import keys
from shared.store.collections import CollectionStore
from shared.store.events import EventLog
from shared.store.jobs import JobStore
from shared.store.workers import WorkerInfo
from tests.support.api import Caller, new_key
from tests.support.workers import submit
from worker.engines.search.indexing import Indexed

WORKER = WorkerInfo("w", "p", ["probe"], [{"id": "m", "sha256": "0"}], "cpu", 4, 1, "ready", "1", 5, 9)
JSON_RECORDS = [WORKER, SavedRun("k", 3, 10, "00"), Indexed("c", 1), Credentials("a", "b")]
NONSENSE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=9), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def optional_of(record: Any) -> list[str]:
    return [f.name for f in fields(record) if f.default is not MISSING or f.default_factory is not MISSING]


@pytest.mark.parametrize("record", JSON_RECORDS, ids=lambda record: type(record).__name__)
class TestJsonRecords:
    @given(data=st.data())
    def test_unknown_members_change_nothing(self, record: Any, data: st.DataObject) -> None:
        added = data.draw(st.dictionaries(st.text("abc_", min_size=12), NONSENSE, max_size=3))
        assert record_from_json(type(record), json.dumps({**added, **asdict(record)})) == record

    @given(data=st.data())
    def test_an_optional_member_may_be_missing_or_make_no_sense(self, record: Any, data: st.DataObject) -> None:
        optional = optional_of(record)
        if not optional:
            return
        name = data.draw(st.sampled_from(optional))
        raw = asdict(record)
        if data.draw(st.booleans()):
            del raw[name]
        else:
            raw[name] = data.draw(NONSENSE)
        found = record_from_json(type(record), json.dumps(raw))
        assert replace(found, **{name: getattr(record, name)}) == record

    def test_without_what_it_needs_it_names_the_field(self, record: Any) -> None:
        for name in {field.name for field in fields(record)} - set(optional_of(record)):
            raw = asdict(record)
            del raw[name]
            with pytest.raises(UnreadableRecord, match=name):
                record_from_json(type(record), json.dumps(raw))

    @given(text=st.one_of(st.text(max_size=20), NONSENSE.map(json.dumps)))
    def test_whatever_is_stored_it_is_a_named_error(self, record: Any, text: str) -> None:
        if isinstance(record, Indexed):
            assert Indexed.resumed(text.encode(), "c").collection == "c"
        else:
            with pytest.raises(UnreadableRecord):
                record_from_json(type(record), text)


JOB_FIELDS = (
    "kind", "pool", "spec", "state", "priority", "rank", "attempt", "failures", "losses", "created_at", "queued_at",
    "started_at", "deadline_at", "due_at", "cancel", "paused", "worker", "progress", "result", "error", "timings",
    "attempts", "snapshot", "metadata", "retry_of", "holder", "claimed_at", "alone", "fingerprint", "ttl", "yield",
    "request_id",
)  # fmt: skip
DAMAGE = st.sampled_from(
    ["", "x", "[", "[]", "{}", "[1]", "null", "-1", "1e99", "9" * 30, '{"step": "x"}', "\x00", "NaN"]
)


@given(raw=st.dictionaries(st.sampled_from(JOB_FIELDS), DAMAGE))
def test_a_job_record_is_always_read(raw: dict[str, str]) -> None:
    record = JobRecord.from_hash({"id": "i", "tenant": "t", **raw})
    assert isinstance(record.state, JobState)
    if record.unreadable:
        assert record.error is not None


class TestTheStore:
    """Through the scripts and the API, on a real Redis."""

    @pytest.fixture
    def others(self, store: JobStore, tenant: str, pool: str) -> Iterator[Callable[[], None]]:
        """What must go on working whatever lies beside it: another job of the tenant, from accept to commit."""

        def work() -> None:
            job_id = submit(store, tenant, pool)
            for _ in range(20):
                claim = store.claim(pool, "w", is_idle=True)
                if isinstance(claim, Claim) and claim.id == job_id:
                    store.beat([claim])
                    assert store.commit(claim, {}, {}) is JobState.SUCCEEDED
                    return
            raise AssertionError("the other job was not given out")

        yield work
        work()

    @pytest.mark.parametrize("field", JOB_FIELDS)
    @pytest.mark.parametrize("value", [None, "nonsense", "[]", '{"a": 1}', "9" * 30])
    def test_one_damaged_field_stops_nobody_else(
        self, store: JobStore, caller: Caller, tenant: str, pool: str, others: Callable[[], None], field: str,
        value: str | None,
    ) -> None:  # fmt: skip
        queued, running = submit(store, tenant, pool, priority="low"), submit(store, tenant, pool, priority="high")
        claim = store.claim(pool, "w", is_idle=True)
        assert isinstance(claim, Claim)
        assert claim.id == running
        for job_id in (queued, running):
            if value is None:
                store.redis.hdel(keys.job(tenant, job_id), field)
            else:
                store.redis.hset(keys.job(tenant, job_id), field, value)
        self.read_all(caller, [queued, running])
        store.beat([claim])
        store.redis.zadd("dq:leases", {keys.ref(tenant, running): 1})
        store.redis.delete("dq:sweep")
        store.sweeps.reap()
        store.sweeps.promote()
        others()
        self.read_all(caller, [queued, running])

    def read_all(self, caller: Caller, ids: list[str]) -> None:
        for path in (*(f"/v1/jobs/{job_id}" for job_id in ids), "/v1/jobs", "/v1/pools", "/metrics"):
            assert caller.get(path).status_code < 500, path

    def test_a_claim_that_cannot_be_read_ends_the_job(self, store: JobStore, tenant: str, pool: str) -> None:
        broken, fine = submit(store, tenant, pool), submit(store, tenant, pool)
        store.redis.hset(keys.job(tenant, broken), "spec", "{")
        claim = store.claim(pool, "w", is_idle=True)
        assert isinstance(claim, Claim)
        assert claim.id == fine
        record = store.get(tenant, broken)
        assert (record.state, (record.error or {})["code"]) == (JobState.FAILED, "unreadable_record")
        assert record.finished_at_ms is not None

    def test_a_record_of_another_type_ends_its_job(
        self, store: JobStore, caller: Caller, tenant: str, pool: str, others: Callable[[], None]
    ) -> None:
        broken = submit(store, tenant, pool)
        store.redis.delete(keys.job(tenant, broken))
        store.redis.set(keys.job(tenant, broken), "not a hash")
        others()
        answer = caller.get(f"/v1/jobs/{broken}").json
        assert (answer["state"], answer["error"]["code"]) == ("failed", "unreadable_record")

    def test_what_a_newer_worker_noted_is_claimed(self, store: JobStore, tenant: str, pool: str) -> None:
        job_id = submit(store, tenant, pool)
        note = {**asdict(SavedRun("k", 3, 10, "00")), "codec": "zstd"}
        store.redis.hset(keys.job(tenant, job_id), mapping={"snapshot": json.dumps(note), "wanted_by": "a newer one"})
        claim = store.claim(pool, "w", is_idle=True)
        assert isinstance(claim, Claim)
        assert claim.snapshot == SavedRun("k", 3, 10, "00")

    def test_a_state_of_a_newer_version_is_shown_and_left_alone(
        self, store: JobStore, caller: Caller, tenant: str, pool: str
    ) -> None:
        job_id = submit(store, tenant, pool)
        store.redis.hset(keys.job(tenant, job_id), "state", "scheduled")
        assert caller.get(f"/v1/jobs/{job_id}").json["state"] == "unknown"
        assert store.redis.zscore(f"dq:ready:{pool}:{tenant}", job_id) is not None

    def test_a_newer_worker_is_seen(self, store: JobStore, caller: Caller, pool: str) -> None:
        name = f"w-{uuid.uuid4().hex}"
        told = {
            **asdict(WORKER), "name": name, "pool": pool, "gpu_memory_bytes": 1, "state": "warming",
            "kinds": ["probe", "hologram"], "models": [{"id": "m", "weights": {"a": 1}}, {"called": "no id"}],
        }  # fmt: skip
        store.redis.set(keys.worker(name), json.dumps(told), px=60_000)
        store.redis.set(keys.worker(f"{name}-damaged"), "{", px=60_000)
        store.redis.zadd("dq:workers", {name: 1, f"{name}-damaged": 1})
        for path in ("/v1/workers", "/v1/pools", "/v1/models", "/metrics"):
            assert caller.get(path).status_code == 200, path
        shown = {worker["name"]: worker for worker in caller.get("/v1/workers").json["workers"]}
        assert shown[name]["state"] == "warming"
        assert f"{name}-damaged" not in shown
        assert caller.post("/v1/jobs", json={"kind": "probe", "input": {}}).status_code == 202

    def test_damaged_shares_and_averages(
        self, store: JobStore, caller: Caller, tenant: str, pool: str, others: Callable[[], None]
    ) -> None:
        store.redis.hset("dq:weight", tenant, "heavy")
        store.redis.hset(f"dq:pace:{pool}", "probe", "slow")
        store.redis.hset("dq:counts", mapping={"odd": "1", "probe:odd": "many"})
        others()
        self.read_all(caller, [])
        store.redis.hdel("dq:weight", tenant)
        store.redis.hdel("dq:counts", "odd", "probe:odd")

    def test_events(self, store: JobStore, tenant: str, pool: str) -> None:
        job_id = submit(store, tenant, pool)
        stream = keys.events(tenant, job_id)
        store.redis.xadd(stream, {"type": "hologram", "data": '{"state": "running"}', "more": "1"})
        store.redis.xadd(stream, {"data": "{"})
        found = EventLog(store.redis).read(tenant, job_id)
        assert [event.type for event in found] == ["queued", "hologram", "log"]

    @pytest.mark.parametrize("missing", ["tenant", "sha256"])
    def test_half_a_key_opens_nothing(self, store: JobStore, caller: Caller, tenant: str, missing: str) -> None:
        key = new_key(store, tenant)
        kid = key.split("_")[1]
        store.redis.hdel(keys.key(kid), missing)
        other = Caller(caller.http, key)
        assert other.get("/v1/jobs").status_code == 401
        assert kid not in [found.kid for found in KeyStore(store.redis).list()]

    def test_a_key_whose_end_cannot_be_read_has_ended(self, store: JobStore, caller: Caller, tenant: str) -> None:
        key = new_key(store, tenant)
        store.redis.hset(keys.key(key.split("_")[1]), mapping={"expires_at": "soon"})
        assert Caller(caller.http, key).get("/v1/jobs").status_code == 401

    def test_collections(self, settings: Settings, store: JobStore, caller: Caller, tenant: str) -> None:
        collections = CollectionStore(store.redis, settings)
        for name in ("newer", "damaged", "fine"):
            collections.create(tenant, name, "m")
        columns = {"when": ["moment", 0], "size": ["number", 1, "indexed"]}
        store.redis.hset(f"dq:collection:{tenant}:newer", mapping={"fields": json.dumps(columns), "codec": "pq"})
        store.redis.hdel(f"dq:collection:{tenant}:damaged", "table")
        assert [found.name for found in collections.all(tenant)] == ["newer", "fine"]
        assert collections.get(tenant, "newer").fields == {"size": "number"}
        with pytest.raises(UnreadableRecord, match="table"):
            collections.get(tenant, "damaged")
        answer = caller.get("/v1/collections")
        assert {found["name"] for found in answer.json["collections"]} >= {"newer", "fine"}

    def test_a_retry_of_what_this_version_does_not_know(
        self, store: JobStore, caller: Caller, tenant: str, pool: str
    ) -> None:
        for kind, spec, priority in (("hologram", {"depth": 3}, "normal"), ("probe", {"steps": 1}, "urgent")):
            job_id = submit(store, tenant, pool)
            store.cancel(tenant, job_id)
            mapping = {"kind": kind, "spec": json.dumps(spec), "priority": priority}
            store.redis.hset(keys.job(tenant, job_id), mapping=mapping)
            answer = caller.post(f"/v1/jobs/{job_id}/retry")
            assert answer.status_code == (422 if kind == "hologram" else 202), answer.json
