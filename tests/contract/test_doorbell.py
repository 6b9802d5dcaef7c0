"""The doorbell the Lua scripts ring is, key by key, what Celery itself would have published."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any, cast

from shared.broker import create_celery
from shared.records.job import NewJob
from shared.settings import Settings
from shared.store import keys
from shared.store.doorbell import TASK_NAME
from shared.store.jobs import JobStore

VARYING = {"id", "root_id", "correlation_id", "delivery_tag", "reply_to", "origin"}  # ids, and who rang


def shape(message: dict[str, Any]) -> dict[str, Any]:
    """The message with the body decoded and whatever differs from ring to ring left out."""

    def without(values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name not in VARYING}

    return {
        **message,
        "body": json.loads(base64.b64decode(message["body"])),
        "headers": without(message["headers"]),
        "properties": without(message["properties"]),
    }


def rung(store: JobStore, pool: str) -> dict[str, Any]:
    """Take the pool's one doorbell off the queue."""
    raw = cast("str", store.redis.rpop(keys.bell(pool)))
    assert store.redis.llen(keys.bell(pool)) == 0
    return cast("dict[str, Any]", json.loads(raw))


def publish(settings: Settings, pool: str) -> None:
    with create_celery(settings.model_copy(update={"pool": pool})) as app:
        app.send_task(TASK_NAME, ignore_result=True)


def submit(store: JobStore, tenant: str, pool: str) -> None:
    store.submit(NewJob(id=str(uuid.uuid4()), tenant=tenant, kind="probe", pool=pool, spec={"kind": "probe"}))


def test_the_scripts_ring_what_celery_publishes(settings: Settings, store: JobStore, tenant: str, pool: str) -> None:
    publish(settings, pool)
    theirs = rung(store, pool)
    submit(store, tenant, pool)
    ours = rung(store, pool)
    assert shape(ours) == shape(theirs)
    assert VARYING & theirs["properties"].keys() == VARYING & ours["properties"].keys()
    assert VARYING & theirs["headers"].keys() == VARYING & ours["headers"].keys()


def test_ids_of_a_doorbell_agree(store: JobStore, tenant: str, pool: str) -> None:
    submit(store, tenant, pool)
    first = rung(store, pool)
    ids = {first["headers"]["id"], first["headers"]["root_id"], first["properties"]["correlation_id"]}
    assert len(ids) == 1
    submit(store, tenant, pool)
    assert rung(store, pool)["headers"]["id"] not in ids


def test_celery_leaves_no_keys_outside_ours(settings: Settings, store: JobStore, pool: str) -> None:
    publish(settings, pool)
    assert store.redis.exists(keys.bell(pool))
    assert not list(store.redis.scan_iter("_kombu*"))
    assert not list(store.redis.scan_iter("unacked*"))
