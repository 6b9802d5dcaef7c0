"""An object store that fails a third of its requests for ten minutes: 5xx, resets, a few spoilt, slow, silent ones."""

from __future__ import annotations

import time

from tests.faults.cluster import LEASE_S, Cluster, Station
from tests.faults.object_faults import ObjectFaults
from tests.faults.report import Row
from tests.faults.storm import Run, Storm
from tests.faults.verdict import quantile

__all__ = ["run"]

RATES = {
    "error_500": 0.15, "error_503": 0.15, "reset": 0.03, "reset_midway": 0.02,
    "spoilt": 0.01, "slow": 0.01, "silent": 0.005,
}  # fmt: skip
CLIENT_TIMEOUT_S = 2.0


def run(run: Run) -> Row:
    """600 s, 500 jobs; no engine runs twice."""
    seconds, jobs = run.pick(600, 6), run.pick(500, 30)
    stations = [Station(number) for number in range(2)]
    made: list[ObjectFaults] = []

    def spoil(cluster: Cluster) -> None:
        """The workers' object store is the one with faults; the API's is sound."""
        made.append(ObjectFaults(cluster.objects.url, run.seed, **RATES))
        for station in stations:
            station.settings |= {"s3_endpoint": made[0].url, "s3_timeout_s": CLIENT_TIMEOUT_S}

    with Storm.of(run, per_s=max(1.5, jobs / seconds), stations=stations, before=spoil) as storm:
        try:
            storm.rage(lambda: time.sleep(seconds), faults=1, jobs=jobs, every_s=(0.0, 0.0))
            verdict = storm.verdict()
        finally:
            made[0].close()
        faults = made[0]
        row = Row.of("store_errors", run.seed, verdict, seconds=seconds, rates=RATES, requests=dict(faults.made),
                     lease_s=LEASE_S, upload_p99_s=_upload_p99_s(storm))  # fmt: skip
    row.expect(verdict.repeated_runs == 0, f"{verdict.repeated_runs} engine runs were repeated")
    row.expect(row.accepted >= jobs, f"only {row.accepted} jobs were accepted")
    row.expect(sum(faults.made[name] for name in RATES) > 0, "no fault was made")
    return row


def _upload_p99_s(storm: Storm) -> float | None:
    cluster = storm.cluster
    found = [cluster.store.get("faults", job_id).timings.get("upload_s", 0.0) for job_id in storm.load.accepted]
    return quantile(found, 0.99)
