"""A live API: gunicorn with two processes, for the tests that need sockets."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from api.client import DreamqueueClient
from shared.settings import Settings
from shared.storage import ObjectStore
from shared.store import JobStore
from tests.support.api import ApiServer, StandIn, new_key


@pytest.fixture(scope="session")
def live_pool() -> str:
    """The pool of the live API."""
    return f"p{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def live_api(
    settings: Settings, objects: ObjectStore, live_pool: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiServer]:
    """gunicorn on the session's Redis and object store."""
    server = ApiServer(settings.model_copy(update={"pool": live_pool}), tmp_path_factory.mktemp("api"))
    yield server
    server.process.stop()


@pytest.fixture
def live_worker(store: JobStore, objects: ObjectStore, live_pool: str) -> StandIn:
    """What a worker of the live API's pool would write."""
    return StandIn(store, objects, live_pool)


@pytest.fixture
def key(store: JobStore, tenant: str) -> str:
    """A key with all scopes."""
    return new_key(store, tenant)


@pytest.fixture
def client(live_api: ApiServer, key: str) -> Iterator[DreamqueueClient]:
    """The Python client on the live API."""
    with DreamqueueClient(live_api.url, key) as client:
        yield client
