"""The Celery app, from settings. Celery only wakes workers: which job runs, and what becomes of it, the store decides.

A doorbell is worth nothing once it was heard, so the queue is consumed without acks: two writes less per job, and
celery 5.7.0 dies on late acks when Redis goes away. The reaper rings again for every job that has no doorbell, so a
lost one costs at most its period.
"""

from __future__ import annotations

import json
import uuid
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from celery.app.amqp import AMQP
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.transport import redis
from redis.connection import SSLConnection, parse_url

from shared.logs import get_logger
from shared.settings import Settings
from shared.store import keys
from shared.store.doorbell import WIRE

__all__ = ["DoorbellTransport", "create_celery"]

log = get_logger(__name__)

RECONNECT = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 2.0}  # seconds between tries
DEAF_AFTER_S = 5.0  # a connection to the broker that is silent for so long is given up and made again


class _Channel(redis.Channel):
    """Celery acks a message also where the queue wants none; kombu makes a client and a round trip of each. kombu's
    virtual transports have no setting for it (`no_ack_consumers` is for brokers that speak AMQP)."""

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Nothing was noted when the doorbell was heard, so there is nothing to forget."""

    def _brpop_read(self, **options: Any) -> Any:
        """kombu's, which ends the process where an entry of the list is not JSON."""
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except self.connection_errors:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
            log.warning("doorbell dropped: it cannot be read", error=type(error).__name__)
            return True


class DoorbellTransport(redis.Transport):
    """kombu's Redis transport for queues that are consumed without acks."""

    Channel = _Channel

    def _deliver(self, _message: Any, queue: str) -> None:
        """Whatever lies in the list means the same: look for work. Nothing of it is decoded, unpacked or believed."""
        super()._deliver(_doorbell(queue), queue)  # type: ignore[no-untyped-call]


class _Connection(Connection):
    """Celery waits 2, 4, 6 ... 30 s between tries to reach the broker, and has no setting for it: after a minute
    without Redis a worker would stay deaf for half a minute more."""

    def ensure_connection(self, *arguments: Any, **options: Any) -> Any:
        """As kombu's, with shorter waits."""
        return super().ensure_connection(*arguments, **{**RECONNECT, **options})  # type: ignore[no-untyped-call]


class _Amqp(AMQP):  # type: ignore[misc]
    Connection = _Connection


def _doorbell(queue: str) -> dict[str, Any]:
    """What a script rings (shared/store/doorbell.py), as kombu reads it."""
    doorbell: dict[str, Any] = json.loads(WIRE.replace("@ID@", uuid.uuid4().hex).replace("@QUEUE@", queue))
    return doorbell


def _tls_options(url: str) -> dict[str, Any] | bool:
    """What kombu needs to speak TLS as redis-py does for the same URL, verification included; False where it does not.
    kombu looks for the scheme in the transport's name, where ours is not, and would verify nothing."""
    parsed = parse_url(url)  # type: ignore[no-untyped-call]
    if parsed.get("connection_class") is not SSLConnection:
        return False
    return {"ssl_cert_reqs": "required", **{name: value for name, value in parsed.items() if name.startswith("ssl_")}}


def _plain(url: str) -> str:
    """Without the scheme and the options that only redis-py understands."""
    return urlsplit(url)._replace(scheme="redis", query="").geturl()


def create_celery(settings: Settings) -> Celery:
    """An app whose default queue is the pool's: Redis list `keys.bell(pool)`. Opens no connection."""
    queue = keys.queue_name(settings.pool)
    app = Celery("dreamqueue", amqp=_Amqp, set_as_current=False)
    app.conf.update(
        broker_url=_plain(settings.redis_url),
        broker_use_ssl=_tls_options(settings.redis_url),
        broker_transport=f"{__name__}:{DoorbellTransport.__name__}",
        broker_connection_timeout=settings.redis_timeout_s,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # for ever: a worker outlives any outage of Redis
        broker_transport_options=_transport_options(settings),
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=False,
        task_queues=[Queue(queue, routing_key=queue, no_ack=True)],  # type: ignore[no-untyped-call]
        task_default_queue=queue,
        task_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,  # hear a doorbell only when a slot is free
        worker_send_task_events=False,
        worker_enable_remote_control=False,  # its reply queues leak, and it has nothing that the store has not
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return app


def _transport_options(settings: Settings) -> dict[str, Any]:
    return {
        "global_keyprefix": keys.PREFIX,
        "priority_steps": [0],  # one list per queue; priority lives in the claim
        "visibility_timeout": 3600,  # never reached: every message is acked when it is heard
        "socket_timeout": max(DEAF_AFTER_S, settings.redis_timeout_s),
        "socket_connect_timeout": settings.redis_timeout_s,
        "socket_keepalive": True,
        "health_check_interval": 15,
    }
