"""What we use of libraries beyond what they promise. A test that fails here says that a library has changed: look at
the place it names, and whether there is a public way now."""

from __future__ import annotations

import inspect
import io
import tarfile
import threading
from concurrent.futures import Future
from importlib.metadata import version
from typing import Any

import kombu.transport.redis
import kombu.transport.virtual
import pytest
from celery.app.utils import find_app
from celery.concurrency import get_implementation
from celery.concurrency.base import BasePool
from celery.concurrency.thread import TaskPool
from kombu.connection import Connection

from api.uploads.archives import _entries
from shared.broker import DoorbellTransport, create_celery
from shared.settings import Settings
from shared.store.doorbell import TASK_NAME
from shared.store.jobs import JobStore
from worker import app as worker_app
from worker.tasks import WakingPool

KOMBU = f"kombu {version('kombu')}: see shared/broker.py"
CELERY = f"celery {version('celery')}: see worker/tasks.py"


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


class TestBroker:
    """shared/broker.py overrides these methods of kombu's Redis transport and Connection."""

    def test_their_signatures_are_those_we_override(self) -> None:
        channel = kombu.transport.redis.Channel
        assert parameters(channel.basic_ack)[:3] == ["self", "delivery_tag", "multiple"], KOMBU
        assert parameters(channel._brpop_read) == ["self", "options"], KOMBU
        assert parameters(kombu.transport.redis.Transport._deliver) == ["self", "message", "queue"], KOMBU

    def test_only_an_argument_shortens_the_waits(self) -> None:
        """A setting, or another default, would make _Connection needless."""
        waits = inspect.signature(Connection._ensure_connection).parameters
        assert [waits[name].default for name in ("interval_start", "interval_step", "interval_max")] == [2, 2, 30], (
            KOMBU
        )
        with create_celery(Settings(redis_url="redis://127.0.0.1:1/0")) as app:
            assert type(app.connection_for_read()) is not Connection, KOMBU

    @pytest.mark.parametrize("is_ours", [True, False])
    def test_an_ack_costs_a_round_trip_unless_it_is_ours(
        self, is_ours: bool, settings: Settings, store: JobStore, pool: str
    ) -> None:
        """Where kombu's costs none either, ours is needless."""
        with create_celery(settings.model_copy(update={"pool": pool})) as app:
            if not is_ours:
                app.conf.broker_transport = "redis"
            app.send_task(TASK_NAME, ignore_result=True)
            heard: list[Any] = []
            with app.connection_for_read() as connection:
                assert isinstance(connection.transport, DoorbellTransport) is is_ours, KOMBU
                consumer = app.amqp.TaskConsumer(connection, callbacks=[lambda _body, message: heard.append(message)])
                with consumer:
                    connection.drain_events(timeout=5)
                    before = commands(store)
                    heard[0].ack()
                    assert (commands(store) - before == 1) is is_ours, KOMBU


def commands(store: JobStore) -> int:
    """How many Redis has run so far, this question not counted."""
    return int(store.redis.info("stats")["total_commands_processed"])


class TestPool:
    """worker/tasks.py hangs the waking of Celery's loop on its pool of threads, as the setting worker_pool allows."""

    def test_the_methods_we_override_are_there(self) -> None:
        assert parameters(BasePool.register_with_event_loop) == ["self", "loop"], CELERY
        assert parameters(TaskPool.on_apply)[:2] == ["self", "target"], CELERY

    def test_the_end_of_a_task_turns_the_loop(self) -> None:
        """After Celery has been told, so that the slot is free by then."""
        turned = threading.Event()
        order: list[str] = []

        class Loop:
            def call_soon(self, *_: Any) -> None:
                order.append("turned")
                turned.set()

        pool = WakingPool(limit=1)
        try:
            pool.register_with_event_loop(Loop())
            result = pool.on_apply(lambda: None, (), {}, callback=lambda _: order.append("told"))
            assert isinstance(result.f, Future), CELERY
            assert turned.wait(5), CELERY
            assert order == ["told", "turned"], CELERY
        finally:
            pool.on_stop()

    def test_a_task_that_ends_before_there_is_a_loop_wakes_nobody(self) -> None:
        pool = WakingPool(limit=1)
        pool.on_apply(lambda: None, (), {}, callback=print).f.result(5)
        pool.on_stop()

    def test_celery_takes_a_class_for_the_setting(self) -> None:
        assert get_implementation(WakingPool) is WakingPool, CELERY


def test_celerys_command_finds_an_app_made_when_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """worker/app.py has a module `__getattr__`, since `celery -A` calls no factory."""
    made = create_celery(Settings())
    monkeypatch.setattr(worker_app, "create_app", lambda _settings: made)
    monkeypatch.delitem(vars(worker_app), "app", raising=False)
    try:
        assert find_app("worker.app") is made, f"celery {version('celery')}: see worker/app.py"
    finally:
        vars(worker_app).pop("app", None)


def test_tarfile_reads_on_when_its_list_is_emptied() -> None:
    """api/uploads/archives.py empties it: tarfile keeps every member it has met."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number in range(50):
            archive.addfile(tarfile.TarInfo(f"{number}.png"))
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        kept = [(entry.name, len(archive.members)) for entry in _entries(archive)]  # type: ignore[attr-defined]
    assert kept == [(f"{number}.png", 0) for number in range(50)], "tarfile: see api/uploads/archives.py"
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while archive.next() is not None:
            pass
        assert len(archive.members) == 50, "tarfile keeps no members any more: _entries is needless"  # type: ignore[attr-defined]
