"""A key and the Python client on the live API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from api.client import DreamqueueClient
from shared.store.jobs import JobStore
from tests.support.api import ApiServer, new_key


@pytest.fixture
def key(store: JobStore, tenant: str) -> str:
    """A key with all scopes."""
    return new_key(store, tenant)


@pytest.fixture
def client(live_api: ApiServer, key: str) -> Iterator[DreamqueueClient]:
    """The Python client on the live API."""
    with DreamqueueClient(live_api.url, key) as client:
        yield client
