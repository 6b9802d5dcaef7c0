"""The shape most scenarios share: a system, callers, a fault again and again, then the verdict."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.faults.cluster import TENANT, Cluster, Station
from tests.faults.ledger import Ledger
from tests.faults.load import Load
from tests.faults.observer import Observer
from tests.faults.verdict import Ends, Verdict, judge
from tests.support.polling import PATIENCE_S, eventually

__all__ = ["NO_HANG_S", "Run", "Storm"]

SETTLED_S = 90.0  # after the last fault everything accepted must end within this
NO_HANG_S = 6.0  # of a caller; it may meet a dead connection twice: key look-up, then the write; 2 s each


@dataclass(frozen=True)
class Run:
    """What a scenario is told: how far to go, and where."""

    seed: int
    short: bool
    folder: Path
    minutes: int = 30  # of the soak

    def pick(self, long: int, short: int) -> int:
        """One of the two sizes."""
        return short if self.short else long


class Storm:
    """A cluster under load with an observer. `rng` is the scenario's own, from the seed."""

    def __init__(self, cluster: Cluster, load: Load, run: Run) -> None:
        self.cluster, self.load, self.run = cluster, load, run
        self.rng = random.Random(run.seed)
        self.started_at = time.monotonic()

    @classmethod
    @contextmanager
    def of(
        cls, run: Run, *, per_s: float, stations: list[Station] | None = None, load: dict[str, Any] | None = None,
        before: Callable[[Cluster], None] | None = None, **settings: Any,
    ) -> Iterator[Storm]:  # fmt: skip
        """Start it all; `before` is called when the servers run and no worker does. Callers begin with rage()."""
        folder = Path(tempfile.mkdtemp(prefix="storm-", dir=run.folder))
        ledger = Ledger(folder / "ledger.jsonl")
        workers = settings.pop("workers", run.pick(3, 2))
        cluster = Cluster(folder, ledger, workers=workers, stations=stations, **settings)
        if before:
            before(cluster)
        with cluster:
            callers = Load(cluster.api.url, cluster.key, ledger, run.seed, per_s=per_s, **(load or {}))
            storm = cls(cluster, callers, run)
            yield storm
        ledger.close()

    def rage(self, fault: Callable[[], None], *, faults: int, jobs: int, every_s: tuple[float, float]) -> None:
        """Callers give at least `jobs`, the fault happens `faults` times, at random intervals; ends when both did.
        With no `jobs` there are those of the scenario only."""
        self.observer = Observer(self.cluster.settings, self.cluster.ledger, self.load).start()
        self.load.start(10**9 if jobs else 0)
        for _ in range(faults):
            time.sleep(self.rng.uniform(*every_s))
            fault()
        while len(self.load.accepted) < jobs:
            time.sleep(0.05)
        self.load.stop()

    def wait_alive(self, workers: int) -> None:
        """Until so many workers are ready: what is measured then is the system, not how fast this machine starts
        Python."""
        eventually(lambda: len(self.cluster.ready_workers()) >= workers, what=f"{workers} ready workers")

    def busy_station(self) -> Station:
        """One whose worker runs jobs now, if any; else any that runs."""
        stations = list(self.cluster.stations)
        self.rng.shuffle(stations)
        running = [station for station in stations if station.process and station.process.exit_code is None]
        return next((station for station in running if self.cluster.running_on(station)), (running or stations)[0])

    def wait_final(self, job_id: str, within_s: float = PATIENCE_S) -> None:
        """Until that job has ended."""
        store = self.cluster.store
        eventually(lambda: store.get(TENANT, job_id).is_final, within_s=within_s, what=f"the end of {job_id}")

    def wait_running(self, within_s: float = PATIENCE_S) -> None:
        """Until some worker runs a job."""
        stations = self.cluster.stations
        eventually(lambda: any(self.cluster.running_on(one) for one in stations), within_s=within_s, what="a run")

    def http(self) -> httpx.Client:
        """A caller of the tenant's."""
        headers = {"Authorization": f"Bearer {self.cluster.key}"}
        return httpx.Client(base_url=self.cluster.api.url, headers=headers, timeout=30)

    def verdict(self, within_s: float = 0.0, known: Ends | None = None) -> Verdict:
        """After rage(). What has not ended `within_s` is lost."""
        within_s = within_s or (PATIENCE_S if self.run.short else SETTLED_S)
        with self.http() as http:
            return judge(
                self.cluster.ledger, http, self.observer,
                within_s=within_s, max_losses=self.cluster.settings.max_losses, known=known,
            )  # fmt: skip

    def fenced(self) -> int:
        """Writes of late workers that the store refused, of any sort."""
        return self.cluster.store.fleet.counts().get(("all", "fenced"), 0)
