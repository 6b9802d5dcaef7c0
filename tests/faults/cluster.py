"""A whole system on loopback, one process each, whose parts a scenario may kill; what should run is started again."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.local.processes import Command, Process, wait_until
from shared.errors import StoreUnavailable
from shared.settings import ENV_PREFIX, Settings
from shared.store.jobs import JobStore
from shared.store.redis import connect
from tests.faults.ledger import Ledger
from tests.support.api import ApiServer, new_key
from tests.support.polling import PATIENCE_S, eventually
from tests.support.servers import ObjectServer, RedisServer

__all__ = ["LEASE_S", "TENANT", "Cluster", "Station"]

TENANT = "faults"
LEASE_S, BEAT_S, REAP_S = 3.0, 1.0, 0.25  # short, so that a hundred kills take minutes; production: 15, 4, 1
RESTART_S = 0.2  # as the embedded stack's supervisor
WITNESSED = ("-m", "tests.faults.effects")

Spawn = Callable[[Command, Path], Process]


@dataclass
class Station:
    """A place where one worker at a time runs; each incarnation has a name of its own."""

    number: int
    settings: dict[str, Any] = field(default_factory=dict)  # beyond the cluster's
    env: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = WITNESSED
    spawn: Spawn = Process
    process: Process | None = None
    name: str = ""
    incarnation: int = 0
    is_kept: bool = True  # started again when it ends


class Cluster:
    """Redis, object store, API, workers. A context manager; ready when entered."""

    def __init__(
        self, folder: Path, ledger: Ledger, *, workers: int = 3, stations: list[Station] | None = None,
        api_env: dict[str, str] | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        self.folder, self.ledger = folder, ledger
        self.redis = RedisServer(folder / "redis")
        self.objects = ObjectServer(folder / "objects")
        times = {"lease_s": LEASE_S, "beat_s": BEAT_S, "reap_period_s": REAP_S, "retry_base_s": 0.2, "retry_cap_s": 2.0}
        fixed = {"redis_url": self.redis.url, "worker_metrics_port": 0, "log_format": "console", "kinds": "probe",
                 "spool_dir": str(folder / "spool")}  # fmt: skip
        self.settings = Settings(**{**times, **fixed, **self.objects.settings(), **settings})
        self.client = connect(self.settings)
        self.store = JobStore(self.client, self.settings)
        self.key = new_key(self.store, TENANT)
        self.stations = stations if stations is not None else [Station(number) for number in range(workers)]
        self._api_env = api_env or {}
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._lock = threading.Lock()

    def __enter__(self) -> Cluster:
        self._keeper.start()  # children live no longer than the thread that made them
        self.api = ApiServer(self.settings, self.folder, env=self._api_env)
        eventually(self._all_ready, what="every worker")
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        with self._lock:  # the keeper is between two starts
            for station in self.stations:
                if station.process:
                    station.process.kill()
        self._keeper.join(10)
        for process in (self.api.process, self.objects.process, self.redis.process):
            process.kill()
        self.client.close()

    def ready_workers(self) -> set[str]:
        """Names of those the store lists, restricted to the present incarnations."""
        try:
            names = {s.name for s in self.stations if s.process and s.process.exit_code is None}
            return {info.name for info in self.store.fleet.workers()} & names
        except StoreUnavailable:
            return set()

    def _all_ready(self) -> bool:
        return len(self.ready_workers()) == len(self.stations)

    def _keep(self) -> None:
        """Start what should run and does not, until the end."""
        ended_at: dict[int, float] = {}
        while not self._stopping.wait(0.05):
            for station in self.stations:
                if not station.is_kept or (station.process and station.process.exit_code is None):
                    continue
                since = ended_at.setdefault(station.number, time.monotonic())
                if not station.process or time.monotonic() - since > RESTART_S:
                    with self._lock:
                        if not self._stopping.is_set():
                            self._start(station)
                    ended_at.pop(station.number, None)

    def _start(self, station: Station) -> None:
        if station.process:
            station.process.kill()  # closes its log
        station.incarnation += 1
        station.name = f"w{station.number}-{station.incarnation}"
        values = {**self.settings.model_dump(), **station.settings, "worker_name": station.name}
        env = {ENV_PREFIX + name.upper(): str(value) for name, value in values.items()}
        env |= {"OMP_NUM_THREADS": "1", "FAULTS_LEDGER": str(self.ledger.path), **station.env}
        command = Command(station.name, [sys.executable, *station.arguments], env)
        station.process = station.spawn(command, self.folder / "workers" / f"{station.name}.log")

    # --- faults --------------------------------------------------------------------------------------------------

    def signal_worker(self, station: Station, number: int, what: str) -> None:
        """Send a signal, and note it under `what`."""
        with self._lock:
            assert station.process
            self.ledger.note(what, worker=station.name)
            os.kill(station.process.pid, number)

    def kill_worker(self, station: Station) -> None:
        """kill -9; the keeper starts another."""
        self.signal_worker(station, signal.SIGKILL, "kill")

    def kill_redis(self, down_s: float = 0.5) -> None:
        """kill -9, some time of nothing, and back on the same append-only file; notes both."""
        self.ledger.note("kill", worker="redis")
        self.redis.kill()
        time.sleep(down_s)
        self.redis.start()
        self.ledger.note("back", worker="redis")

    def kill_api(self) -> None:
        """kill -9 of all its processes, and a start on the same port."""
        self.ledger.note("kill", worker="api")
        self.api.process.kill()
        self.api = ApiServer(self.settings, self.folder, port=self.api.port, env=self._api_env)
        self.ledger.note("back", worker="api")

    def restart_workers(self, **settings: Any) -> None:
        """All of them with other settings than the cluster's; returns when they are ready."""
        for station in self.stations:
            station.settings |= settings
            with self._lock:
                old = station.process
                assert old
                old.kill()
            eventually(lambda before=old, at=station: at.process is not before)  # type: ignore[misc]
        eventually(self._all_ready, what="every worker")

    def wait_worker(self, station: Station, within_s: float = PATIENCE_S) -> None:
        """Until its present incarnation is in the store's list."""
        assert station.process
        wait_until(lambda: station.name in self.ready_workers(), station.process, within_s)

    def running_on(self, station: Station) -> int:
        """How many jobs its present incarnation runs, as the store sees it."""
        try:
            refs = [str(ref) for ref in self.client.zrange("dq:leases", 0, -1)]  # type: ignore[union-attr]
            return sum(self.client.hget(f"dq:job:{ref}", "worker") == station.name for ref in refs)
        except Exception:
            return 0
