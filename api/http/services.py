"""What the routes stand on, made once per process and handed to them."""

from __future__ import annotations

from dataclasses import dataclass

from api.http.auth import Authenticator, KeyStore
from api.http.fleet import Fleet
from shared.settings import Settings
from shared.storage import ObjectStore
from shared.store.collections import CollectionStore
from shared.store.events import EventLog
from shared.store.jobs import JobStore
from shared.store.redis import connect

__all__ = ["BLOCK_S", "Services", "build_services"]

BLOCK_S = 15.0  # longest single blocking read; also the period of keep-alive comments in event streams


@dataclass(frozen=True)
class Services:
    """Everything a request may need; nothing is made per request."""

    settings: Settings
    store: JobStore  # short timeout: a slow Redis is an error within redis_timeout_s
    events: EventLog  # long timeout: its reads block
    objects: ObjectStore
    collections: CollectionStore
    authenticator: Authenticator
    fleet: Fleet


def build_services(settings: Settings) -> Services:
    """Clients connect on first use, so this never fails for a server that is down."""
    client = connect(settings)
    store = JobStore(client, settings)
    return Services(
        settings=settings,
        store=store,
        events=EventLog(connect(settings, timeout_s=BLOCK_S + settings.redis_timeout_s)),
        objects=ObjectStore(settings),
        collections=CollectionStore(client, settings),
        authenticator=Authenticator(KeyStore(client), settings.key_cache_s),
        fleet=Fleet(store),
    )
