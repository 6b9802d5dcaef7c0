"""The maintenance of a worker, wired: what keeps its leases, ends it in time, and tidies the store for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.settings import Settings
from shared.storage import ObjectStore
from shared.store.jobs import JobStore
from shared.store.workers import WorkerInfo
from worker.engines.scheduling.device_lock import DeviceLock
from worker.maintenance.auditor import Auditor
from worker.maintenance.control import ControlListener
from worker.maintenance.heartbeat import Heartbeat
from worker.maintenance.reaper import Reaper
from worker.maintenance.recycler import Recycler
from worker.maintenance.watchdog import Watchdog
from worker.run.active import ActiveRuns
from worker.threads import PeriodicThread

if TYPE_CHECKING:
    from worker.collections.access import CollectionAccess

__all__ = ["Maintenance", "NodeControls", "build_maintenance"]


@dataclass(frozen=True)
class NodeControls:
    """What maintenance may ask of its node."""

    describe: Callable[[], WorkerInfo]
    resumable: frozenset[str]  # the kinds whose jobs may be called away for one of high priority
    shut: Callable[[], None]  # claim nothing more
    die: Callable[[int], None]  # end the process at once, with that code
    leave: Callable[[], None]  # end it as if told from outside


@dataclass(frozen=True)
class Maintenance:
    """What a node needs of it."""

    heartbeat: Heartbeat
    watchdog: Watchdog
    recycler: Recycler  # a hook of the executor
    threads: list[PeriodicThread]


def build_maintenance(
    settings: Settings,
    store: JobStore,
    objects: ObjectStore,
    *,
    runs: ActiveRuns,
    device_lock: DeviceLock,
    node: NodeControls,
    collections: CollectionAccess | None,
) -> Maintenance:
    """Without I/O."""
    heartbeat = Heartbeat(store, runs, node.describe, settings.beat_s, node.resumable)
    watchdog = Watchdog(
        runs,
        device_lock,
        store,
        step_timeout_s=settings.step_timeout_s,
        lease_s=settings.lease_s,
        shut=node.shut,
        end=node.die,
    )
    recycler = Recycler(settings.recycle_after_jobs, settings.recycle_rss_growth, node.leave)
    threads = [
        heartbeat.thread,
        ControlListener(settings, runs).thread,
        watchdog.thread,
        Reaper(store, objects, settings).thread,
        Auditor(store, settings).thread,
        recycler.thread,
    ]
    if collections and collections.tables.is_open:
        from worker.maintenance.index_compactor import IndexCompactor  # loads numpy

        threads.append(IndexCompactor(collections, settings.search_ann_rows).thread)
    return Maintenance(heartbeat, watchdog, recycler, threads)
