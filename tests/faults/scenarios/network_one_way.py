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
        numbers = iter(range(times))

        def drop() -> None:
            number = next(numbers)
            wired.wait_busy()
            wired.storm.cluster.ledger.note("cut", worker=wired.far.name)
            wired.link.blocked = {("to_far", "to_near")[number % 2]}
            time.sleep(LEASE_S * (0.5 if number % 4 < 2 else 1.5))
            wired.link.blocked = set()

        wired.storm.rage(drop, faults=times, jobs=jobs, every_s=(0.5, 2.0))
        return wired.row("network_one_way", times=times)
