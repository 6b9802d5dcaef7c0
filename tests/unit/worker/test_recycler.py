"""When a worker has had enough."""

from __future__ import annotations

import pytest

from tests.unit.worker.test_run_context import Made
from worker.engines.scheduling.memory import resident_bytes
from worker.maintenance.recycler import WARM_JOBS, Recycler
from worker.run.hooks import Ended

ENDED = Ended("succeeded", {})


class Worker:
    """Counts how often it is told to leave."""

    def __init__(self, after_jobs: int = 0, rss_growth: float = 0.0) -> None:
        self.left = 0
        self.recycler = Recycler(after_jobs, rss_growth, self.leave)

    def leave(self) -> None:
        self.left += 1

    def ends(self, jobs: int) -> None:
        for _ in range(jobs):
            self.recycler.after_run(Made().context, ENDED)
            self.recycler.look()


def test_jobs_are_counted_and_it_leaves_once() -> None:
    worker = Worker(after_jobs=3)
    worker.ends(2)
    assert worker.left == 0
    worker.ends(5)
    assert worker.left == 1


def test_growth_counts_from_the_tenth_job(monkeypatch: pytest.MonkeyPatch) -> None:
    rss = [100]
    monkeypatch.setattr("worker.maintenance.recycler.resident_bytes", lambda: rss[0])
    worker = Worker(rss_growth=0.2)
    worker.ends(WARM_JOBS - 1)
    rss[0] = 1000  # what the first jobs fill is no leak
    worker.ends(1)
    rss[0] = 1200
    worker.recycler.look()
    assert worker.left == 0
    rss[0] = 1201
    worker.recycler.look()
    assert worker.left == 1


def test_off_means_off() -> None:
    worker = Worker()
    worker.ends(100)
    assert worker.left == 0


def test_memory_is_measured() -> None:
    before = resident_bytes()
    ballast = bytearray(64 * 2**20)
    ballast[::4096] = b"x" * (len(ballast) // 4096)
    assert resident_bytes() - before > 32 * 2**20
