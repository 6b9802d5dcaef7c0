"""The executor of a worker, wired: what stands between a doorbell and a commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.settings import Settings
from shared.specs.kinds import kinds
from shared.storage import ObjectStore
from shared.store.jobs import JobStore
from worker.engines.base import Engine
from worker.executor.claim_gate import ClaimGate
from worker.executor.claims import Claims, ClaimTerms
from worker.executor.output_maker import OutputMaker
from worker.executor.runner import Runner, RunnerParts
from worker.run.active import ActiveRuns
from worker.run.failpoints import FailPoints
from worker.run.hooks import Hooks, RunLog, RunMetrics
from worker.run.progress_writer import ProgressWriter
from worker.run.retry import Backoff
from worker.threads import PeriodicThread
from worker.transfer.inputs import Inputs
from worker.transfer.previews import Previews
from worker.transfer.snapshots import Snapshots
from worker.transfer.spool import Spool
from worker.transfer.uploads import Uploads

if TYPE_CHECKING:
    from worker.collections.access import CollectionAccess

__all__ = ["Executor", "build_executor"]

IO_THREADS = 8  # that upload and fetch pictures, for all jobs together


@dataclass(frozen=True)
class Executor:
    """What a node needs of it. `pull` is what a doorbell starts."""

    pull: Callable[[], bool]
    hooks: Hooks
    threads: list[PeriodicThread]
    io: ThreadPoolExecutor
    collections: CollectionAccess | None  # where this worker serves collections


def build_executor(
    settings: Settings,
    store: JobStore,
    objects: ObjectStore,
    *,
    engines: Mapping[str, Engine],
    runs: ActiveRuns,
    failpoints: FailPoints,
    is_draining: Callable[[], bool],
) -> Executor:
    """Without I/O."""
    io = ThreadPoolExecutor(IO_THREADS, thread_name_prefix="io")
    patience_s = settings.upload_patience_s
    inputs = Inputs(store, objects, io, max_pixels=settings.image_max_pixels, patience_s=patience_s)
    progress = ProgressWriter(store)
    previews = Previews(objects, progress)
    snapshots = Snapshots(store, objects, settings.snapshot_every_s, failpoints)
    spool = Spool(settings.spool_dir, settings.spool_max_bytes, store)
    gate = ClaimGate(spool, objects, is_draining)
    collections = _collections(settings, store, objects, inputs) if _takes_collections(engines) else None
    # Fail-points come after the claim is logged, and before the end is: their place is part of their meaning.
    hooks = Hooks([RunMetrics(), RunLog(), spool, failpoints, snapshots, progress, previews, gate])
    terms = ClaimTerms(settings.pool, settings.worker_name, settings.lease_s, standby_s=settings.beat_s)
    parts = RunnerParts(
        claims=Claims(store, runs, gate, terms, is_draining),
        maker=OutputMaker(engines, inputs, snapshots, spool, collections),
        uploads=Uploads(objects, patience_s, io),
        store=store,
        hooks=hooks,
    )
    runner = Runner(parts, pool=settings.pool, backoff=Backoff(settings.retry_base_s, settings.retry_cap_s))
    threads = [progress.thread, previews.thread, snapshots.thread, spool.thread, gate.thread]
    return Executor(runner.pull, hooks, threads, io, collections)


def _takes_collections(served: Iterable[str]) -> bool:
    return any(kinds()[kind].takes_collections for kind in served)


def _collections(settings: Settings, store: JobStore, objects: ObjectStore, inputs: Inputs) -> CollectionAccess:
    """Where no kind needs collections, neither numpy nor an index library is loaded."""
    from worker.collections.access import CollectionAccess

    return CollectionAccess(store, objects, inputs, settings)
