"""The API's pure parts: ETAs, tags, sameness, the key cache, the event stream parser."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from api.client.stream import _parsed
from api.http.auth import ApiKey, Authenticator, KeyStore, Principal
from api.http.fleet import eta_s
from api.schemas.documents import Place, job_document, job_tag, rfc3339
from api.submission.admission import fingerprint
from shared.errors import Forbidden, Unauthorized
from shared.records.job import Attempt, JobRecord, JobState
from shared.store.workers import PoolInfo, WorkerInfo

NOW = 1_700_000_100_000
RECORD = JobRecord(
    id="j", tenant="t", kind="dalle", pool="p", spec={"kind": "dalle", "n": 1}, state=JobState.QUEUED,
    priority="normal", attempt=0, failures=0, losses=0, created_at_ms=NOW - 20_000, queued_at_ms=NOW - 20_000,
)  # fmt: skip
RUNNING = dataclasses.replace(
    RECORD, state=JobState.RUNNING, attempt=1, started_at_ms=NOW - 10_000, attempts=(Attempt(1, "w", NOW - 10_000),)
)


def pool(*slots: int, running: int = 0, state: str = "ready", **pace_s: float) -> PoolInfo:
    workers = [WorkerInfo(f"w{n}", "p", ["dalle"], [], "cpu", size, 0, state, "0", 0) for n, size in enumerate(slots)]
    return PoolInfo("p", 0, running, 0, workers, pace_s)


@pytest.mark.parametrize(
    ("record", "pool", "position", "expected"),
    [
        (RECORD, pool(2, dalle=10.0), 0, 10.0),
        (RECORD, pool(2, dalle=10.0), 3, 20.0),
        (RECORD, pool(1, 1, running=2, dalle=10.0), 0, 15.0),
        (RECORD, pool(2), 0, None),
        (RECORD, pool(dalle=10.0), 0, None),
        (RECORD, pool(2, state="draining", dalle=10.0), 0, None),
        (dataclasses.replace(RECORD, due_at_ms=NOW + 5_000), pool(2, dalle=10.0), None, 15.0),
        (RUNNING, pool(1, dalle=30.0), None, 20.0),
        (RUNNING, pool(1), None, None),
        (dataclasses.replace(RUNNING, progress={"fraction": 0.25}), pool(1), None, 30.0),
        (dataclasses.replace(RECORD, state=JobState.FAILED), pool(1, dalle=1.0), None, None),
    ],
)
def test_eta(record: JobRecord, pool: PoolInfo, position: int | None, expected: float | None) -> None:
    assert eta_s(record, pool, position, NOW) == expected


def test_a_tag_follows_what_happens_but_not_the_clock() -> None:
    tag = job_tag(RECORD, Place(1, 5.0))
    assert tag == job_tag(RECORD, Place(1, 4.0))
    assert tag != job_tag(RECORD, Place(0, 4.0))
    assert tag != job_tag(RUNNING, Place())
    assert job_tag(RUNNING, Place()) != job_tag(dataclasses.replace(RUNNING, progress={"step": 1}), Place())


def test_times_are_rfc_3339_utc() -> None:
    assert rfc3339(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
    assert rfc3339(1_700_000_000_000) == "2023-11-14T22:13:20.000Z"
    assert rfc3339(None) is None
    assert job_document(RUNNING, Place())["timings"] == {"queue_s": 10.0}


def test_sameness_ignores_order_only() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})
    assert fingerprint({"a": "\ud800"})


class Counted(KeyStore):
    """A key store with one key in memory, counting look-ups."""

    def __init__(self, key: ApiKey) -> None:
        self.key: ApiKey | None = key
        self.asked = 0

    def find(self, kid: str) -> ApiKey | None:
        self.asked += 1
        return self.key if self.key and kid == self.key.kid else None


def test_known_keys_are_remembered_a_while_and_unknown_ones_never() -> None:
    import hashlib

    key = ApiKey("0" * 12, "t", frozenset({"jobs:read"}), hashlib.sha256(b"s").hexdigest(), 0)
    store, now = Counted(key), [0.0]
    door = Authenticator(store, 5.0, clock=lambda: now[0])
    good = f"Bearer dq_{key.kid}_s"
    assert door.principal(good) == door.principal(good) == Principal("t", key.kid, key.scopes)
    assert store.asked == 1
    store.key = None
    assert door.principal(good)
    now[0] = 6.0
    for _ in range(2):
        with pytest.raises(Unauthorized):
            door.principal(good)
    assert store.asked == 3
    with pytest.raises(Forbidden, match="admin"):
        Principal("t", "k", key.scopes).require("admin")


def test_event_streams_are_read_as_the_standard_says() -> None:
    text = 'retry: 1000\n\n: keep-alive\n\nid: 1-0\nevent: queued\ndata: {"a": 1}\n\nid:2-0\nevent:log\ndata:{}\n\n'
    text += 'data: {"cut'
    events: list[Any] = list(_parsed(iter(text.split("\n"))))
    assert [(event.id, event.type, event.data) for event in events] == [("1-0", "queued", {"a": 1}), ("2-0", "log", {})]
