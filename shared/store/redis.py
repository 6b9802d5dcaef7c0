"""The way to Redis: one kind of client, and the one place where its errors become ours."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.errors import StoreUnavailable
from shared.settings import Settings

__all__ = ["connect", "guarded"]

P = ParamSpec("P")
R = TypeVar("R")


def connect(settings: Settings, *, timeout_s: float | None = None) -> redis.Redis:
    """A client with decoded replies. No retries: ambiguity is shown, not hidden. `timeout_s` must exceed any block."""
    limit = timeout_s or settings.redis_timeout_s
    client: redis.Redis = redis.Redis.from_url(
        settings.redis_url,
        decode_responses=True,
        socket_timeout=limit,
        socket_connect_timeout=min(limit, 2.0),
        retry=Retry(NoBackoff(), 0),
        health_check_interval=30,
        max_connections=settings.redis_connections,
    )
    return client


def guarded(method: Callable[P, R]) -> Callable[P, R]:
    """The method raises StoreUnavailable when Redis is down, full or too slow, and nothing of Redis' own."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except (redis.RedisError, OSError) as error:
            if _is_full(error):
                raise StoreUnavailable("the job store is full") from error
            raise StoreUnavailable(f"the job store does not answer: {type(error).__name__}") from error

    return call


def _is_full(error: Exception) -> bool:
    """Redis 7 answers a script that needs memory with an error of its own; Redis 6 names it within its message."""
    return isinstance(error, redis.OutOfMemoryError) or (isinstance(error, redis.ResponseError) and "OOM" in str(error))
