"""One worker process, wired: its engines, its threads, and the order in which they start and stop."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict

from prometheus_client import start_http_server

from shared.errors import ObjectStoreUnavailable, StoreUnavailable
from shared.logs import get_logger
from shared.settings import Settings
from shared.specs.kinds import kinds_served
from shared.storage import ObjectStore
from shared.store.jobs import JobStore
from shared.store.redis import connect
from shared.store.workers import WorkerInfo
from shared.version import VERSION
from worker.engine_metrics import engine_options
from worker.engines.base import Engine, Model
from worker.engines.registry import build_engines
from worker.engines.scheduling.device_lock import DeviceLock
from worker.executor.build import build_executor
from worker.maintenance.build import NodeControls, build_maintenance
from worker.run.active import ActiveRuns
from worker.run.failpoints import FailPoints
from worker.threads import PeriodicThread

__all__ = ["WorkerNode"]

log = get_logger(__name__)

UNHEARD_S = 8.0  # a run that has not ended so long after it was told to stop hangs in its engine


class WorkerNode:
    """Built without I/O; load(), start(), drain(), stop(), in this order and once each."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.is_draining = False  # a plain flag: set from a signal handler, which must not take a lock
        device_lock = DeviceLock()
        self._engines: dict[str, Engine] = build_engines(
            kinds_served(settings.kinds), engine_options(settings, device_lock)
        )
        self._kinds = list(self._engines)
        self._models: list[Model] = []
        self._started_at_ms = int(time.time() * 1000)
        self._metrics_port = 0
        self._runs = ActiveRuns()
        self._store = JobStore(connect(settings), settings)
        self._objects = ObjectStore(settings)
        self._executor = build_executor(
            settings, self._store, self._objects, engines=self._engines, runs=self._runs, failpoints=FailPoints(),
            is_draining=lambda: self.is_draining,
        )  # fmt: skip
        self._maintenance = build_maintenance(
            settings, self._store, self._objects, runs=self._runs, device_lock=device_lock, node=self._controls(),
            collections=self._executor.collections,
        )  # fmt: skip
        self._executor.hooks.add(self._maintenance.recycler)
        # Started in this order, after the first beat and before the first doorbell; told to stop, then waited for, in
        # the same order, when no job runs any more.
        self._threads: list[PeriodicThread] = [*self._maintenance.threads, *self._executor.threads]

    def _controls(self) -> NodeControls:
        resumable = frozenset(kind for kind, engine in self._engines.items() if engine.resumes)
        return NodeControls(self.describe, resumable, shut=self._shut, die=self._die, leave=self._leave)

    @property
    def pull(self) -> Callable[[], bool]:
        """What a doorbell starts."""
        return self._executor.pull

    def load(self) -> None:
        """Bring every model to the device. Raises ModelUnavailable."""
        models: dict[str, Model] = {}
        for engine in dict.fromkeys(self._engines.values()):
            models.update((model.id, model) for model in engine.load())
        self._models = list(models.values())
        collections = self._executor.collections
        if collections and collections.tables.is_open:
            collections.tables.prepare(is_searched="search" in self._kinds)

    def start(self) -> None:
        """Serve metrics, then tell the world. Raises OSError; that a server is away is no reason not to start."""
        server, _ = start_http_server(self.settings.worker_metrics_port)
        self._metrics_port = server.server_port
        try:
            self._objects.ensure_bucket()
        except ObjectStoreUnavailable as error:
            log.warning("object store away at start", error=error.message)
        self._maintenance.heartbeat.thread.once()
        for thread in self._threads:
            thread.start()
        log.info("worker ready", worker=self.settings.worker_name, pool=self.settings.pool, kinds=self._kinds,
                 models=[model.id for model in self._models], metrics_port=self._metrics_port)  # fmt: skip

    def describe(self) -> WorkerInfo:
        """How this worker shows in GET /v1/workers."""
        return WorkerInfo(
            name=self.settings.worker_name,
            pool=self.settings.pool,
            kinds=self._kinds,
            models=[asdict(model) for model in self._models],
            device=_device_name(self._engines),
            slots=self.settings.slots,
            busy=len(self._runs),
            state="draining" if self.is_draining else "ready",
            version=VERSION,
            started_at_ms=self._started_at_ms,
            metrics_port=self._metrics_port,
        )

    def drain(self, grace_s: float) -> None:
        """Take no more jobs, let the running ones end within the grace, then give them back. Ends the process where
        an engine hangs: its jobs are given back from here, and whatever it still writes is refused."""
        self._shut()
        log.info("draining", running=len(self._runs), grace_s=grace_s)
        self._maintenance.heartbeat.thread.once()
        if self._runs.wait_until_empty(grace_s):
            return
        self._runs.give_up()
        if self._runs.wait_until_empty(UNHEARD_S):
            return
        for context in self._runs.all():
            log.error("engine hangs; job given back over its head", job_id=context.claim.id)
            try:
                self._store.release(context.claim)
            except Exception:
                log.exception("job could not be given back; its lease will")
        self._die(0)

    def _shut(self) -> None:
        """Claim nothing more."""
        self.is_draining = True
        self._runs.shut()

    def _die(self, code: int) -> None:
        """Without the engines' consent."""
        self._depart()
        os._exit(code)

    def _leave(self) -> None:
        """As if told from outside: Celery's handler of SIGTERM leads to drain()."""
        self.is_draining = True
        os.kill(os.getpid(), signal.SIGTERM)

    def stop(self) -> None:
        """After drain(): end the threads, leave the list of workers."""
        self._maintenance.watchdog.stop()
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            thread.join(2.0)
        self._executor.io.shutdown(wait=False, cancel_futures=True)
        self._depart()
        log.info("worker stopped", worker=self.settings.worker_name)
        gc.freeze()  # the interpreter's last collection would walk through torch: 2.0 s of CPU instead of 0.4

    def _depart(self) -> None:
        """Ring for what was given back, since this process may have heard doorbells it did not answer."""
        try:
            self._store.sweeps.promote()
            self._store.fleet.depart(self.settings.worker_name)
        except StoreUnavailable as error:
            log.warning("left without saying so", error=error.message)


def _device_name(engines: dict[str, Engine]) -> str:
    """Of the engines that have a device; `none` for a worker of probes."""
    names = {str(getattr(engine, "device_name", "none")) for engine in engines.values()} - {"none"}
    return ",".join(sorted(names)) or "none"
