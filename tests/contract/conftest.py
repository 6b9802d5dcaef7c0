"""How far the state machine goes: short in the suite, long on demand (HYPOTHESIS_PROFILE=long). The API, in process."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import hypothesis
import pytest
from flask import Flask
from hypothesis import HealthCheck

from api.app import create_app
from shared.settings import Settings
from shared.storage import ObjectStore
from shared.store.jobs import JobStore
from tests.support.api import Caller, StandIn, new_key

hypothesis.settings.register_profile(
    "suite", max_examples=100, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
hypothesis.settings.register_profile(
    "long",
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "2000")),
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


@pytest.fixture
def app(settings: Settings, objects: ObjectStore, pool: str) -> Flask:
    """The API in this process, on the session's servers and a pool of its own."""
    return create_app(settings.model_copy(update={"pool": pool}))


@pytest.fixture
def caller(app: Flask, store: JobStore, tenant: str) -> Caller:
    """A tenant with all scopes."""
    return Caller(app.test_client(), new_key(store, tenant))


@pytest.fixture
def stranger(app: Flask, store: JobStore) -> Caller:
    """Another tenant with all scopes."""
    return Caller(app.test_client(), new_key(store, f"s{uuid.uuid4().hex[:12]}"))


@pytest.fixture
def worker(store: JobStore, objects: ObjectStore, pool: str) -> Iterator[StandIn]:
    """What a worker of the pool would write."""
    worker = StandIn(store, objects, pool)
    yield worker
    worker.leave()
