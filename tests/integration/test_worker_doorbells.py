"""What lies in the doorbells' list cannot hurt a worker: everything means `look for work`, and is not believed."""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from pathlib import Path
from typing import Any

import pytest

from shared.settings import Settings
from shared.store import keys
from shared.store.doorbell import WIRE
from shared.store.jobs import JobStore
from tests.support.polling import eventually
from tests.support.workers import Worker, submit, until

GOOD: dict[str, Any] = json.loads(WIRE.replace("@ID@", "x").replace("@QUEUE@", "bell:p"))


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name not in names}


def with_body(body: bytes, **more: Any) -> dict[str, Any]:
    return {**GOOD, "body": base64.b64encode(body).decode(), **more}


def with_headers(**headers: Any) -> dict[str, Any]:
    return {**GOOD, "headers": {**GOOD["headers"], **headers}}


FORGED: dict[str, Any] = {
    "no content type": without("content-type"),
    "no headers": without("headers"),
    "no body": without("body"),
    "no properties": without("properties"),
    "null": None,
    "true": True,
    "a number": 5,
    "a list": [],
    "a list of one": [1],
    "an object": {},
    "a text": "pull",
    "a deep list": "[" * 50_000,
    "not JSON": "{",
    "empty": "",
    "binary": b"\xff\xfe\x00",
    "NUL": "\x00",
    "a body of a list": with_body(b"[1]"),
    "a body of nothing": with_body(b""),
    "a body of 5": with_body(b"5"),
    "a body that is no JSON": with_body(b"{"),
    "a body that is no base64": {**GOOD, "body": "%%%"},
    "a body of pickle": with_body(
        b"cos\nsystem\n(S'touch pwned'\ntR.", **{"content-type": "application/x-python-serialize"}
    ),
    "a body of yaml": with_body(b"!!python/object/apply:os.system ['id']", **{"content-type": "application/x-yaml"}),
    "a bomb": {
        **with_body(zlib.compress(bytes(50_000_000))),
        "headers": {**GOOD["headers"], "compression": "application/x-gzip"},
    },
    "unknown compression": with_headers(compression="application/x-nothing"),
    "an unknown task": with_headers(task="os.system"),
    "a built-in task": with_headers(task="celery.map"),
    "a task of a number": with_headers(task=5),
    "an id of a list": with_headers(id=[1]),
    "callbacks": with_body(json.dumps([[], {}, {"callbacks": [{"task": "celery.map", "args": [1]}]}]).encode()),
    "arguments": with_body(json.dumps([[1, 2], {"a": 1}, {}]).encode()),
    "an ETA": with_headers(eta="2999-01-01T00:00:00Z"),
    "expired": with_headers(expires="1999-01-01T00:00:00Z"),
    "an ETA of nonsense": with_headers(eta="soon"),
    "a type of kombu's": {"__type__": "uuid", "__value__": "x"},
    "a decimal": {"__type__": "decimal", "__value__": "x"},
    "no delivery tag": {**GOOD, "properties": {}},
    "properties of a list": {**GOOD, "properties": [1]},
    "another encoding": {**GOOD, "content-encoding": "rot13"},
    "another type": {**GOOD, "content-type": "text/plain"},
}


def raw(message: Any) -> bytes:
    if isinstance(message, bytes):
        return message
    return message.encode() if isinstance(message, str) else json.dumps(message).encode()


@pytest.fixture(scope="module")
def worker(
    settings: Settings, store: JobStore, tmp_path_factory: pytest.TempPathFactory
) -> Any:  # one for all: it must outlive them
    pool = f"p{uuid.uuid4().hex[:12]}"
    slow = settings.model_copy(update={"pool": pool, "kinds": "probe", "reap_period_s": 60.0})
    process = Worker(slow, store, tmp_path_factory.mktemp("doorbells"))
    yield process, pool
    process.stop()


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_doorbell_is_no_more_than_a_doorbell(
    worker: tuple[Worker, str], store: JobStore, tenant: str, name: str
) -> None:
    process, pool = worker
    before = process.process.pid
    store.redis.lpush(keys.bell(pool), raw(FORGED[name]))
    eventually(lambda: store.redis.llen(keys.bell(pool)) == 0, what="the end of the list")
    assert until(store, tenant, submit(store, tenant, pool)).state == "succeeded"
    assert (process.process.exit_code, process.process.pid) == (None, before)
    assert not Path("pwned").exists()
