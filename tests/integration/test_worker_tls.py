"""rediss:// is TLS for all that speaks to Redis, verified alike; a worker hears its doorbells through it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme
from kombu.exceptions import OperationalError
from pydantic import ValidationError

from shared.broker import create_celery
from shared.errors import StoreUnavailable
from shared.settings import Settings
from shared.store.jobs import JobStore
from shared.store.redis import connect
from tests.support.polling import eventually
from tests.support.tls import Ears, TlsProxy, ca_file
from tests.support.workers import Worker, submit, until

HELLO = b"\x16\x03"  # a TLS record: handshake


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def test_a_worker_hears_doorbells_over_tls(
    settings: Settings, store: JobStore, tenant: str, pool: str, tmp_path: Path, ca: trustme.CA
) -> None:
    port = int(settings.redis_url.rsplit(":", 1)[1].split("/")[0])
    with TlsProxy(ca, port) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={ca_file(ca, tmp_path)}"
        # no sweep rings again within the test: what is heard was heard through the broker's own connection
        slow = settings.model_copy(update={"redis_url": url, "pool": pool, "kinds": "probe", "reap_period_s": 60.0})
        worker = Worker(slow, store, tmp_path)
        try:
            assert until(store, tenant, submit(store, tenant, pool)).state == "succeeded"
        finally:
            worker.stop()


@pytest.mark.parametrize("query", ["", "?ssl_cert_reqs=required", "?ssl_ca_certs={other}"])
def test_a_certificate_nobody_vouches_for_is_refused(
    settings: Settings, tmp_path: Path, ca: trustme.CA, query: str
) -> None:
    query = query.format(other=ca_file(trustme.CA(), tmp_path))
    with TlsProxy(ca, 1) as proxy:
        strict = settings.model_copy(update={"redis_url": f"rediss://127.0.0.1:{proxy.port}/0{query}"})
        with pytest.raises(StoreUnavailable):
            JobStore(connect(strict), strict).ping()
        with create_celery(strict).connection_for_read() as connection, pytest.raises(OperationalError):
            connection.ensure_connection(max_retries=1)
        assert proxy.served == 0


def test_nothing_is_said_in_clear(settings: Settings) -> None:
    with Ears() as ears:
        strict = settings.model_copy(update={"redis_url": f"rediss://user:sekret@127.0.0.1:{ears.port}/0"})
        with pytest.raises(StoreUnavailable):
            JobStore(connect(strict), strict).ping()
        with create_celery(strict).connection_for_read() as connection, pytest.raises(OperationalError):
            connection.ensure_connection(max_retries=1)
        eventually(lambda: len(ears.heard) >= 2)
    assert all(heard.startswith(HELLO) for heard in ears.heard)
    assert not any(b"sekret" in heard for heard in ears.heard)


@pytest.mark.parametrize("url", ["unix:///run/redis.sock", "http://127.0.0.1", "127.0.0.1:6379", "amqp://127.0.0.1"])
def test_other_schemes_are_refused_at_start(url: str) -> None:
    with pytest.raises(ValidationError, match="redis_url"):
        Settings(redis_url=url)
