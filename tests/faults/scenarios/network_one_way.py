"""Packets of one direction vanish: commands arrive and their answers do not, or the other way round.

A commit that landed without the worker knowing is the hard case: it is told again, and must not count twice.
"""

from __future__ import annotations

import time

from tests.faults.cluster import LEASE_S
from tests.faults.far_worker import wired_storm
from tests.faults.report import Row
from tests.faults.storm import Run

__all__ = ["run"]


def run(run: Run) -> Row:
    """12 times, 200 jobs; some shorter than a lease, some longer."""
    times, jobs = run.pick(12, 2), run.pick(200, 25)
    with wired_storm(run, per_s=4) as wired:
        deaf_s: list[float] = []
        numbers = iter(range(times))

        def drop() -> None:
            number = next(numbers)
            deaf_s.append(wired.wait_busy())
            wired.storm.cluster.ledger.note("cut", worker=wired.far.name)
            wired.link.blocked = {("to_far", "to_near")[number % 2]}
            time.sleep(LEASE_S * (0.5 if number % 4 < 2 else 1.5))
            wired.link.blocked = set()

        wired.storm.rage(drop, faults=times, jobs=jobs, every_s=(0.5, 2.0))
        row = Row.of("network_one_way", run.seed, wired.storm.verdict(), times=times, fenced=wired.storm.fenced(),
                     packets_dropped=wired.link.dropped,
                     longest_deaf_s=max(deaf_s), lease_s=LEASE_S)  # fmt: skip
    row.expect(row.extra["packets_dropped"] > 0, "no packet was lost")
    return row
