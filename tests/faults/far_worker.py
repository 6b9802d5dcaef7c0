"""A system of one worker behind a link that may fail, and one beside the servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.faults.cluster import Station
from tests.faults.link import NEAR, FarSide, Link, Relay
from tests.faults.load import longer_probe
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

    def wait_busy(self) -> float:
        """Until the far worker runs a job; how long that took, in seconds."""
        asked_at = time.monotonic()
        eventually(lambda: self.storm.cluster.running_on(self.far) > 0, within_s=60, what="a job on the far worker")
        return round(time.monotonic() - asked_at, 2)


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
