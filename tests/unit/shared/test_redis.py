"""Redis' errors as ours."""

from __future__ import annotations

import pytest
import redis

from shared.errors import StoreUnavailable
from shared.store.redis import guarded


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "is full"),  # Redis 7
        (redis.ResponseError("Error running script: -OOM command not allowed"), "is full"),  # Redis 6
        (redis.ResponseError("Error running script: attempt to index a nil value"), "does not answer: ResponseError"),
        (redis.TimeoutError("Timeout reading from socket"), "does not answer: TimeoutError"),
        (ConnectionResetError(104, "reset by peer"), "does not answer: ConnectionResetError"),
    ],
)
def test_each_becomes_an_unavailable_store(error: Exception, message: str) -> None:
    @guarded
    def call() -> None:
        raise error

    with pytest.raises(StoreUnavailable, match=message):
        call()
