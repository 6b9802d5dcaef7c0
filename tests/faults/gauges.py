"""Memory, keys and file descriptors of a running system, over time, and the slopes of the lines through them."""

from __future__ import annotations

import os
import statistics
import threading
import time
from pathlib import Path
from typing import Any, cast

import redis

from tests.faults.cluster import Cluster, Station

__all__ = ["Gauges"]

PERIOD_S = 2.0
PAGE = os.sysconf("SC_PAGE_SIZE")


class Gauges:
    """Samples from the start until stop(). Of processes: resident memory in MB, and open descriptors."""

    def __init__(self, cluster: Cluster, stations: list[Station]) -> None:
        self._cluster, self._stations = cluster, stations
        self._samples: list[tuple[float, dict[str, float]]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="gauges", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more samples."""
        self._stopping.set()
        self._thread.join(10)

    def slopes_per_h(self, warm_s: float) -> dict[str, float]:
        """Name -> growth per hour, after the first `warm_s` seconds: the slope of the least-squares line."""
        return {name: round(self._slope(name, warm_s) * 3600, 2) for name in self._names()}

    def levels(self, warm_s: float) -> dict[str, float]:
        """Name -> mean."""
        return {name: round(statistics.mean(self._values(name, warm_s)[1]), 1) for name in self._names()}

    def growth(self, warm_s: float) -> dict[str, float]:
        """Name -> what the slope adds over the measured time, as a share of the mean."""
        found = {}
        for name in self._names():
            times, values = self._values(name, warm_s)
            found[name] = self._slope(name, warm_s) * (times[-1] - times[0]) / max(statistics.mean(values), 1.0)
        return found

    def _names(self) -> list[str]:
        return sorted(self._samples[-1][1])

    def _values(self, name: str, warm_s: float) -> tuple[list[float], list[float]]:
        kept = [sample for sample in self._samples if sample[0] >= self._samples[0][0] + warm_s]
        return [at for at, _ in kept], [values[name] for _, values in kept]

    def _slope(self, name: str, warm_s: float) -> float:
        times, values = self._values(name, warm_s)
        return statistics.linear_regression(times, values).slope if len(set(times)) > 1 else 0.0

    def _sample(self) -> None:
        while not self._stopping.wait(PERIOD_S):
            try:
                self._samples.append((time.monotonic(), self._now()))
            except (redis.RedisError, OSError):
                continue

    def _now(self) -> dict[str, float]:
        client = self._cluster.client
        memory = cast("dict[str, Any]", client.info("memory"))
        found = {"redis_keys": float(cast("int", client.dbsize())), "redis_data_mb": memory["used_memory"] / 2**20}
        groups = {"api": self._cluster.api.process.pid, "redis": self._cluster.redis.process.pid,
                  "objects": self._cluster.objects.process.pid}  # fmt: skip
        groups |= {f"worker{one.number}": one.process.pid for one in self._stations if one.process}
        for name, group in groups.items():
            pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _in(path, group)]
            found[f"{name}_mb"] = sum(_resident(pid) for pid in pids) / 2**20
            found[f"{name}_fds"] = float(sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids))
        return found


def _in(path: Path, group: int) -> bool:
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[2]) == group
    except (FileNotFoundError, ProcessLookupError):
        return False


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
