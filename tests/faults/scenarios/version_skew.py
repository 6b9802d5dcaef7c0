"""A rolling upgrade: workers of an earlier commit beside today's, with today's API, and kills on both sides."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from tests.faults.cluster import LEASE_S, Station
from tests.faults.report import Row
from tests.faults.scenarios import Unavailable
from tests.faults.storm import Run, Storm

__all__ = ["run"]

PREVIOUS = "2bccab4"  # what stands for the last release


def run(run: Run) -> Row:
    """10 kills, 200 jobs."""
    kills, jobs = run.pick(10, 2), run.pick(200, 30)
    tree = _tree(run.folder / "previous")
    old = Station(0, arguments=("-P", "-m", "worker"), env={"PYTHONPATH": str(tree)})
    with Storm.of(run, per_s=6, stations=[old, Station(1)]) as storm:

        def kill() -> None:
            storm.wait_alive(2)
            storm.cluster.kill_worker(storm.busy_station())

        storm.rage(kill, faults=kills, jobs=jobs, every_s=(1.0, 3.0))
        verdict = storm.verdict()
        entries = storm.cluster.ledger.read("event")
        by_old = {e.id for e in entries if e.data["type"] == "started" and e.data["worker"].startswith("w0-")}
        row = Row.of("version_skew", run.seed, verdict, kills=kills, previous=PREVIOUS, started_by_previous=len(by_old),
                     lease_s=LEASE_S)  # fmt: skip
    row.expect(bool(by_old), "the previous version ran nothing")
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
