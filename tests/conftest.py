"""Fixtures over the real servers. Isolation is by fresh names (tenant, pool), never by flushing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from shared.settings import Settings
from shared.storage import ObjectStore
from shared.store.jobs import JobStore
from shared.store.redis import connect
from tests.support.api import ApiServer, StandIn
from tests.support.servers import ObjectServer, RedisServer


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The session's Redis. A test that kills one starts its own."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.process.stop()


@pytest.fixture(scope="session")
def object_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """The session's object store."""
    server = ObjectServer(tmp_path_factory.mktemp("objects"))
    yield server
    server.process.stop()


@pytest.fixture(scope="session")
def settings(redis_server: RedisServer, object_server: ObjectServer) -> Settings:
    """Settings that point at the session's servers, with short times."""
    return Settings(
        redis_url=redis_server.url,
        lease_s=3.0,
        beat_s=0.5,
        reap_period_s=0.2,
        retry_base_s=0.05,
        retry_cap_s=0.2,
        worker_metrics_port=0,
        log_format="console",
        **object_server.settings(),  # type: ignore[arg-type]
    )


@pytest.fixture(scope="session")
def store(settings: Settings) -> Iterator[JobStore]:
    """A job store on the session's Redis."""
    client = connect(settings)
    yield JobStore(client, settings)
    client.close()


@pytest.fixture(scope="session")
def objects(settings: Settings) -> ObjectStore:
    """The object store, its bucket made."""
    objects = ObjectStore(settings)
    objects.ensure_bucket()
    return objects


@pytest.fixture
def tenant() -> str:
    """A tenant nobody else uses."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def pool() -> str:
    """A pool nobody else uses."""
    return f"p{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def live_pool() -> str:
    """The pool of the live API."""
    return f"p{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def live_api(
    settings: Settings, objects: ObjectStore, live_pool: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiServer]:
    """gunicorn with two processes on the session's servers, for the tests that need sockets."""
    server = ApiServer(settings.model_copy(update={"pool": live_pool}), tmp_path_factory.mktemp("api"))
    yield server
    server.process.stop()


@pytest.fixture
def live_worker(store: JobStore, objects: ObjectStore, live_pool: str) -> Iterator[StandIn]:
    """What a worker of the live API's pool would write."""
    worker = StandIn(store, objects, live_pool)
    yield worker
    worker.leave()
