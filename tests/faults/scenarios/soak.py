"""Half an hour (`--minutes`) with a kill each minute: memory, keys and file descriptors must not grow.

Slopes per hour are in the row, of Redis, the object store, the API and two workers.

Records end after a short retention here, so that a level of keys can be reached at all; each job is judged before.
"""

from __future__ import annotations

import threading

from tests.faults.cluster import LEASE_S, Station
from tests.faults.gauges import Gauges
from tests.faults.report import Row
from tests.faults.storm import Run, Storm
from tests.faults.verdict import Ends, read_jobs

__all__ = ["run"]

RETENTION_S = 60
JUDGED_EVERY_S = 10.0
WARM_S = 3 * RETENTION_S  # records and their ids must have begun to go (two retentions), and caches be filled
MOST_GROWTH = 0.1  # of its mean level, over the rest of the run


def run(run: Run) -> Row:
    """A kill a minute at 3 jobs/s; two workers of three are spared, so that their processes can be measured."""
    kills, every_s = run.pick(run.minutes, 2), run.pick(60, 5)
    warm_s = run.pick(WARM_S, 0)
    stations = [Station(number) for number in range(3)]
    short = {"result_ttl_s": RETENTION_S, "gone_ttl_s": RETENTION_S, "event_ttl_s": RETENTION_S,
             "idempotency_ttl_s": RETENTION_S}  # fmt: skip
    with Storm.of(run, per_s=3, stations=stations, **short) as storm:
        gauges = Gauges(storm.cluster, [stations[1], stations[2]])
        judge = Judge(storm)
        storm.rage(lambda: storm.cluster.kill_worker(stations[0]), faults=kills, jobs=kills, every_s=(every_s, every_s))
        gauges.stop()
        verdict = storm.verdict(known=judge.stop())
        row = Row.of("soak", run.seed, verdict, kills=kills, lease_s=LEASE_S, minutes=round(kills * every_s / 60, 1),
                     slopes_per_h=gauges.slopes_per_h(warm_s), levels=gauges.levels(warm_s))  # fmt: skip
        growth = gauges.growth(warm_s)
    grown = {name: round(share, 2) for name, share in growth.items() if share > MOST_GROWTH}
    row.expect(run.short or not grown, f"grew by this share of its level: {grown}")
    return row


class Judge:
    """Reads jobs back while their records are there."""

    def __init__(self, storm: Storm) -> None:
        self._storm = storm
        self._ends: Ends = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="judge", daemon=True)
        self._thread.start()

    def stop(self) -> Ends:
        """What it found."""
        self._stopping.set()
        self._thread.join(RETENTION_S)
        return self._ends

    def _work(self) -> None:
        with self._storm.http() as http:
            while not self._stopping.wait(JUDGED_EVERY_S):
                accepted = self._storm.cluster.ledger.read("accepted")
                self._ends |= read_jobs(http, [one for one in accepted if one.id not in self._ends], RETENTION_S / 2)
