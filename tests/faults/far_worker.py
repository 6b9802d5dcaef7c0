"""A system of one worker behind a link that may fail, and one beside the servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.faults.cluster import LEASE_S, Station
from tests.faults.link import NEAR, FarSide, Link, Relay
from tests.faults.load import longer_probe
from tests.faults.report import Row
from tests.faults.storm import Run, Storm
from tests.support.polling import eventually

__all__ = ["Wired", "wired_storm"]


@dataclass
class Wired:
    """The storm, its wire, and the worker behind it."""

    storm: Storm
    link: Link
    relays: list[Relay]
    far: Station
    longest_deaf_s: float = 0.0  # from a fault's turn to the far worker's next run

    def wait_busy(self) -> None:
        """Until the far worker runs a job."""
        asked_at = time.monotonic()
        eventually(lambda: self.storm.cluster.running_on(self.far) > 0, what="a job on the far worker")
        self.longest_deaf_s = max(self.longest_deaf_s, round(time.monotonic() - asked_at, 2))

    def row(self, name: str, **extra: Any) -> Row:
        """After rage(): the run's row, which is broken where the wire lost nothing."""
        row = Row.of(name, self.storm.run.seed, self.storm.verdict(), fenced=self.storm.fenced(), lease_s=LEASE_S,
                     packets_dropped=self.link.dropped, longest_deaf_s=self.longest_deaf_s, **extra)  # fmt: skip
        row.expect(self.link.dropped > 0, "no packet was lost")
        return row


@contextmanager
def wired_storm(run: Run, *, per_s: float, **settings: Any) -> Iterator[Wired]:
    """Ready when both workers are; the wire is sound."""
    side = FarSide()
    link = Link(side, run.seed)
    far = Station(0, spawn=side.spawn, is_kept=False)
    relays: list[Relay] = []
    try:
        with Storm.of(
            run, per_s=per_s, stations=[far, Station(1)], before=lambda cluster: _connect(cluster, far, relays),
            load={"spec": longer_probe}, **settings,
        ) as storm:  # fmt: skip
            yield Wired(storm, link, relays, far)
    finally:
        for relay in relays:
            relay.close()
        link.close()
        side.close()


def _connect(cluster: Any, far: Station, relays: list[Relay]) -> None:
    """The far worker's servers are the relays at the near end of the wire."""
    relays += [Relay(cluster.redis.port), Relay(cluster.objects.port)]
    redis, objects = relays
    far.settings |= {
        "redis_url": f"redis://{NEAR}:{redis.port}/0",
        "s3_endpoint": f"http://{NEAR}:{objects.port}",
        "s3_timeout_s": 2.0,
    }
    far.is_kept = True
