"""A rolling upgrade: workers of an earlier commit, then of a version to come, beside today's, with today's API, and
kills on both sides. The earlier worker's place is taken by the future one after half of the kills."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from tests.faults.cluster import LEASE_S, Station
from tests.faults.report import Row
from tests.faults.scenarios import Unavailable
from tests.faults.storm import Run, Storm
from tests.support.polling import eventually

__all__ = ["run"]

PREVIOUS = "2bccab4"  # what stands for the last release
FUTURE = ("-m", "tests.faults.future_worker")


def run(run: Run) -> Row:
    """10 kills, 200 jobs."""
    kills, jobs = run.pick(10, 2), run.pick(200, 30)
    tree = _tree(run.folder / "previous")
    other = Station(0, arguments=("-P", "-m", "worker"), env={"PYTHONPATH": str(tree)})
    with Storm.of(run, per_s=6, stations=[other, Station(1)]) as storm:
        previous: set[str] = set()  # names of the earlier commit's workers
        kills_done = 0

        def kill() -> None:
            nonlocal kills_done
            storm.wait_alive(2)
            if other.arguments != FUTURE:
                previous.add(other.name)
            kills_done += 1
            if kills_done == kills // 2:
                upgrade()
            else:
                storm.cluster.kill_worker(storm.busy_station())

        def upgrade() -> None:
            other.arguments, other.env = FUTURE, {}  # from its next start on
            storm.cluster.kill_worker(other)
            eventually(lambda: other.name not in previous and storm.cluster.running_on(other), within_s=60,
                       what="a job on the future worker")  # fmt: skip

        storm.rage(kill, faults=kills, jobs=jobs, every_s=(1.0, 3.0))
        verdict = storm.verdict()
        started = [(e.id, e.data["worker"]) for e in storm.cluster.ledger.read("event") if e.data["type"] == "started"]
        by_previous = {id_ for id_, worker in started if worker in previous}
        by_future = {id_ for id_, worker in started if worker.startswith("w0-") and worker not in previous}
        handed_on = by_future & {id_ for id_, worker in started if worker.startswith("w1-")}
        row = Row.of("version_skew", run.seed, verdict, kills=kills, previous=PREVIOUS,
                     started_by_previous=len(by_previous), started_by_future=len(by_future),
                     handed_on_by_future=len(handed_on), lease_s=LEASE_S)  # fmt: skip
    row.expect(bool(by_previous), "the previous version ran nothing")
    row.expect(bool(by_future), "the future version ran nothing")
    return row


def _tree(folder: Path) -> Path:
    """The files of that commit."""
    root = Path(__file__).parents[3]
    archive = subprocess.run(["git", "archive", PREVIOUS], cwd=root, capture_output=True, check=False)
    if archive.returncode:
        raise Unavailable(f"no commit {PREVIOUS} here")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder
