"""How operators' commands reach Redis, by the server's settings (DREAMQUEUE_REDIS_URL)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
import redis

from shared.errors import InvalidInput, StoreUnavailable
from shared.settings import Settings
from shared.store.redis import connect

__all__ = ["redis_client"]


@contextmanager
def redis_client() -> Iterator[redis.Redis]:
    """A client for one command; our errors end it as click's."""
    client = connect(Settings.from_env())
    try:
        yield client
    except StoreUnavailable as error:
        raise click.ClickException(error.message) from None
    except InvalidInput as error:
        raise click.BadParameter(f"{error.message} ({error.limit})", param_hint=error.field) from None
    finally:
        client.close()
