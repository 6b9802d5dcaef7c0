"""Celery's way in: `python -m worker`. The same by hand, with the pool and the number of slots as in the settings:

    celery -A worker.app worker -c 4 -Q bell:default --without-{gossip,mingle,heartbeat}

Nothing happens at import; Celery asks for `app`, and gets one built from the environment. The node starts as a
bootstep between Celery's pool and its consumer, so models are loaded before the first doorbell is heard, and stops
between them again, so running jobs end before the threads they run on.
"""

from __future__ import annotations

import logging
import signal
from typing import Any

from celery import Celery, bootsteps, signals

from shared.broker import create_celery
from shared.errors import DreamqueueError
from shared.logs import configure_logs, get_logger
from shared.settings import Settings
from shared.store import keys
from worker.engines.registry import UnknownKind
from worker.node import WorkerNode
from worker.tasks import WakingPool, register_pull

__all__ = ["create_app", "main"]

log = get_logger(__name__)


def create_app(settings: Settings) -> Celery:
    """A Celery app whose worker is one node."""
    configure_logs(settings)
    for noisy in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(noisy).setLevel(logging.WARNING)  # a line per doorbell says nothing
    try:
        node = WorkerNode(settings)
    except UnknownKind as error:
        raise SystemExit(f"bad settings\n  DREAMQUEUE_KINDS: {error}") from None
    except DreamqueueError as error:
        raise SystemExit(f"worker cannot start: {error.message}") from None
    app = create_celery(settings)
    app.conf.worker_pool = WakingPool
    register_pull(app, node.pull)
    app.steps["worker"].add(_lifecycle(node))
    signals.setup_logging.connect(lambda **_: None, weak=False)  # ours is set up
    signals.worker_shutting_down.connect(lambda **_: setattr(node, "is_draining", True), weak=False)
    return app


def _lifecycle(node: WorkerNode) -> type[bootsteps.StartStopStep]:
    class NodeStep(bootsteps.StartStopStep):  # type: ignore[misc]
        """The node, between pool and consumer."""

        requires = ("celery.worker.components:Pool",)

        def start(self, worker: Any) -> None:
            """Runs before Celery consumes."""
            if not isinstance(worker.pool, WakingPool):
                log.warning("leave --pool out: with another one, freed slots stand idle for up to a second")
            drain = signal.getsignal(signal.SIGTERM)
            _on_stop_signals(_leave)  # nothing is claimed while models load, so nothing needs to be drained
            try:
                node.load()
                _on_stop_signals(drain)
                node.start()
            except (DreamqueueError, OSError) as error:
                log.critical("worker cannot start", error=str(error))
                raise SystemExit(1) from None

        def stop(self, _worker: Any) -> None:
            """Runs when Celery has stopped consuming, before its threads are joined."""
            node.drain(node.settings.drain_grace_s)
            node.stop()

        def terminate(self, _worker: Any) -> None:
            """SIGQUIT: no grace."""
            node.drain(0.0)
            node.stop()

    return NodeStep


def _on_stop_signals(handler: Any) -> None:
    """Ctrl-C and a closed terminal mean what SIGTERM means; Celery would exit with an error, or restart."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, handler)


def _leave(*_: Any) -> None:
    raise SystemExit(0)


def main() -> int:
    """Run one worker until it is told to stop; its exit code."""
    settings = Settings.from_env()
    worker = create_app(settings).Worker(
        hostname=f"{settings.worker_name}@dreamqueue",
        concurrency=settings.slots,
        queues=[keys.queue_name(settings.pool)],
        loglevel=settings.log_level.upper(),
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def __getattr__(name: str) -> Any:
    """`celery -A worker.app` reads `app` and calls no factory, so it is made when it is asked for (PEP 562)."""
    if name in {"app", "celery"}:
        value = globals()[name] = create_app(Settings.from_env())
        return value
    raise AttributeError(name)
