"""The object store is away and the spool's disk fills up (a real one of 64 KiB): nothing is lost or computed twice."""

from __future__ import annotations

import os
import random
import subprocess
import time
from typing import Any

from tests.faults.cluster import LEASE_S
from tests.faults.report import Row
from tests.faults.storm import Run, Storm
from tests.support.polling import eventually

__all__ = ["run"]

DISK_BYTES = 64 * 1024
EMPTY_BYTES = 40_000  # more than this is free while one output at most waits: the last outage is over


def run(run: Run) -> Row:
    """3 outages of four leases each, 100 jobs."""
    outages, jobs = run.pick(3, 1), run.pick(100, 20)
    disk = run.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "spool", str(disk)], check=True)
    filled: list[int] = []
    try:
        with Storm.of(run, per_s=4, load={"spec": _large_output}, spool_dir=str(disk / "spool")) as storm:

            def outage() -> None:
                eventually(lambda: _free_bytes(str(disk)) > EMPTY_BYTES, what="an empty disk")
                storm.cluster.objects.kill()
                time.sleep(
                    4 * LEASE_S
                )  # full within the first: of outputs written at once, none may fit beside another
                filled.append(DISK_BYTES - _free_bytes(str(disk)))
                storm.cluster.objects.start()

            storm.rage(outage, faults=outages, jobs=jobs, every_s=(1.0, 2.0))
            verdict = storm.verdict()
            row = Row.of("spool_full", run.seed, verdict, outages=outages, disk_bytes=DISK_BYTES, filled_bytes=filled,
                         fenced=storm.fenced(), lease_s=LEASE_S)  # fmt: skip
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=False)
    row.expect(max(filled) > DISK_BYTES // 2, f"the disk was never full: {filled} bytes")
    row.expect(verdict.repeated_runs == 0, f"{verdict.repeated_runs} engine runs were repeated")
    return row


def _large_output(rng: random.Random) -> dict[str, Any]:
    """Two of these fit on the disk, the third does not."""
    return {"kind": "probe", "input": {"steps": 2, "step_s": 0.05, "write_bytes": rng.randint(20_000, 30_000)}}


def _free_bytes(path: str) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
