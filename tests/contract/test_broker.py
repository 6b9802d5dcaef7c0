"""What Celery is told, where it has no setting for it."""

from __future__ import annotations

import pytest
from kombu.exceptions import OperationalError

from deploy.local.servers import free_port
from shared.broker import create_celery
from shared.settings import Settings


def test_a_worker_looks_for_a_lost_broker_every_two_seconds() -> None:
    """However long it has been away; kombu's own waits grow to half a minute."""
    app = create_celery(Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0"))
    waits: list[float] = []

    def told(_error: Exception, interval: float) -> None:
        waits.append(interval)
        if len(waits) == 3:
            raise TimeoutError

    with app, app.connection_for_read() as connection, pytest.raises((TimeoutError, OperationalError)):
        connection.ensure_connection(told)
    assert waits == [0.5, 1.0, 1.5]
