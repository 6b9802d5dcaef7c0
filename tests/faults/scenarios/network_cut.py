"""The wire between one worker and all servers is cut for longer than a lease, again and again; then it comes back.

Every other time the servers' side resets and refuses connections instead, as a firewall does.
"""

from __future__ import annotations

import time

from tests.faults.cluster import LEASE_S
from tests.faults.far_worker import wired_storm
from tests.faults.report import Row
from tests.faults.storm import Run

__all__ = ["run"]

PAST_LEASE_S = 1.5


def run(run: Run) -> Row:
    """10 cuts, 200 jobs."""
    cuts, jobs = run.pick(10, 1), run.pick(200, 25)
    with wired_storm(run, per_s=4) as wired:
        numbers = iter(range(cuts))

        def cut() -> None:
            wired.wait_busy()
            wired.storm.cluster.ledger.note("stop", worker=wired.far.name)
            if next(numbers) % 2:
                for relay in wired.relays:
                    relay.refuse()
            else:
                wired.link.blocked = {"to_far", "to_near"}
            time.sleep(LEASE_S + PAST_LEASE_S)
            wired.link.blocked = set()
            for relay in wired.relays:
                relay.allow()

        wired.storm.rage(cut, faults=cuts, jobs=jobs, every_s=(1.0, 3.0))
        return wired.row("network_cut", cuts=cuts)
