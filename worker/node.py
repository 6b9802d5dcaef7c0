"""One worker process, wired: its engines, its threads, and the order in which they start and stop."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING

from prometheus_client import start_http_server

from shared.errors import ObjectStoreUnavailable, StoreUnavailable
from shared.logs import get_logger
from shared.metrics import MODEL_LOAD_SECONDS
from shared.settings import Settings
from shared.specs.kinds import kinds, kinds_served
from shared.storage import ObjectStore
from shared.store.jobs import JobStore
from shared.store.redis import connect
from shared.store.workers import WorkerInfo
from shared.version import VERSION
from worker.engine_metrics import batch_events, count_step, search_events
from worker.engines.base import Engine, Model
from worker.engines.options import EngineOptions
from worker.engines.registry import build_engines
from worker.engines.scheduling.device_lock import DeviceLock
from worker.executor.claim_gate import ClaimGate
from worker.executor.runner import Runner, RunnerParts
from worker.maintenance.auditor import Auditor
from worker.maintenance.control import ControlListener
from worker.maintenance.heartbeat import Heartbeat
from worker.maintenance.reaper import Reaper
from worker.maintenance.recycler import Recycler
from worker.maintenance.watchdog import Watchdog
from worker.run.active import ActiveRuns
from worker.run.failpoints import FailPoints
from worker.run.hooks import Hooks, RunLog, RunMetrics
from worker.run.progress import ProgressWriter
from worker.threads import PeriodicThread
from worker.transfer.inputs import Inputs
from worker.transfer.previews import Previews
from worker.transfer.snapshots import Snapshots
from worker.transfer.spool import Spool
from worker.transfer.uploads import Uploads

if TYPE_CHECKING:
    from worker.collections.access import CollectionAccess

__all__ = ["WorkerNode"]

log = get_logger(__name__)

IO_THREADS = 8  # that upload and fetch pictures, for all jobs together
UNHEARD_S = 8.0  # a run that has not ended so long after it was told to stop hangs in its engine


class WorkerNode:
    """Built without I/O; load(), start(), drain(), stop(), in this order and once each."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.is_draining = False  # a plain flag: set from a signal handler, which must not take a lock
        device_lock = DeviceLock()
        self._engines: dict[str, Engine] = build_engines(kinds_served(settings.kinds), _options(settings, device_lock))
        self._kinds = list(self._engines)
        self._models: list[Model] = []
        self._started_at_ms = int(time.time() * 1000)
        self._metrics_port = 0
        self._runs = ActiveRuns()
        self._io = ThreadPoolExecutor(IO_THREADS, thread_name_prefix="io")
        self._store = JobStore(connect(settings), settings)
        self._objects = ObjectStore(settings)
        progress = ProgressWriter(self._store)
        previews = Previews(self._objects, progress)
        failpoints = FailPoints()
        snapshots = Snapshots(self._store, self._objects, settings.snapshot_every_s, failpoints)
        resumable = frozenset(kind for kind, engine in self._engines.items() if engine.resumes)
        self._spool = Spool(settings.spool_dir, settings.spool_max_bytes, self._store)
        self._claim_gate = ClaimGate(self._spool, self._objects, lambda: self.is_draining)
        self._watchdog = Watchdog(self._runs, device_lock, self._store, settings, shut=self._shut, end=self._die)
        self._recycler = Recycler(settings.recycle_after_jobs, settings.recycle_rss_growth, self._leave)
        self._heartbeat = Heartbeat(self._store, self._runs, self.describe, settings.beat_s, resumable)
        self._inputs = Inputs(self._store, self._objects, settings, self._io)
        self._collections = self._build_collections()
        self._runner = Runner(
            settings, self._parts(progress, previews, snapshots, failpoints), lambda: self.is_draining
        )
        control, reaper = ControlListener(settings, self._runs), Reaper(self._store, self._objects, settings)
        auditor = Auditor(self._store, settings)
        self._threads: list[PeriodicThread] = [
            self._heartbeat.thread, control.thread, progress.thread, previews.thread, snapshots.thread, reaper.thread,
            auditor.thread,
            self._watchdog.thread, self._spool.thread, self._claim_gate.thread, self._recycler.thread,
        ]  # fmt: skip
        if self._collections and self._collections.tables.is_open:
            from worker.maintenance.index_compactor import IndexCompactor

            self._threads.append(IndexCompactor(self._collections, settings).thread)

    def _parts(
        self, progress: ProgressWriter, previews: Previews, snapshots: Snapshots, failpoints: FailPoints
    ) -> RunnerParts:
        return RunnerParts(
            store=self._store,
            engines=self._engines,
            inputs=self._inputs,
            uploads=Uploads(self._objects, self.settings.upload_patience_s, self._io),
            progress=progress,
            previews=previews,
            snapshots=snapshots,
            hooks=Hooks([RunMetrics(), RunLog(), self._recycler]),
            runs=self._runs,
            claim_gate=self._claim_gate,
            spool=self._spool,
            failpoints=failpoints,
            collections=self._collections,
        )

    def _build_collections(self) -> CollectionAccess | None:
        """Where no kind needs collections, neither numpy nor an index library is loaded."""
        if not any(kinds()[name].takes_collections for name in self._kinds):
            return None
        from worker.collections.access import CollectionAccess

        return CollectionAccess(self._store, self._objects, self._inputs, self.settings)

    @property
    def pull(self) -> Callable[[], bool]:
        """What a doorbell starts."""
        return self._runner.pull

    def load(self) -> None:
        """Bring every model to the device. Raises ModelUnavailable."""
        models: dict[str, Model] = {}
        for engine in dict.fromkeys(self._engines.values()):
            models.update((model.id, model) for model in engine.load())
        self._models = list(models.values())
        if self._collections and self._collections.tables.is_open:
            self._collections.tables.prepare(is_searched="search" in self._kinds)

    def start(self) -> None:
        """Serve metrics, then tell the world. Raises OSError; that a server is away is no reason not to start."""
        server, _ = start_http_server(self.settings.worker_metrics_port)
        self._metrics_port = server.server_port
        try:
            self._objects.ensure_bucket()
        except ObjectStoreUnavailable as error:
            log.warning("object store away at start", error=error.message)
        self._heartbeat.thread.once()
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
        self._heartbeat.thread.once()
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
        self._watchdog.stop()
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            thread.join(2.0)
        self._io.shutdown(wait=False, cancel_futures=True)
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


def _options(settings: Settings, device_lock: DeviceLock) -> EngineOptions:
    return EngineOptions(
        device=settings.device,
        cpu_threads=settings.cpu_threads,
        weights_dir=settings.weights_dir,
        on_step=count_step,
        device_lock=device_lock,
        on_load=lambda model, seconds: MODEL_LOAD_SECONDS.labels(model).set(seconds),
        events=batch_events(),
        search_events=search_events(),
        memory_bytes=settings.device_memory_bytes,
        is_deterministic=settings.deterministic,
    )


def _device_name(engines: dict[str, Engine]) -> str:
    """Of the engines that have a device; `none` for a worker of probes."""
    names = {str(getattr(engine, "device_name", "none")) for engine in engines.values()} - {"none"}
    return ",".join(sorted(names)) or "none"
