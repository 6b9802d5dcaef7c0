"""30 % of all packets between one worker and its servers are lost, each way; then 2 s of delay; then 10 KB/s."""

from __future__ import annotations

import time

from tests.faults.far_worker import wired_storm
from tests.faults.report import Row
from tests.faults.storm import Run

__all__ = ["run"]

SOUND = {"loss": 0.0, "delay_s": 0.0, "bytes_per_s": 0.0}
WEATHER = ({"loss": 0.3}, {"delay_s": 1.0}, {"bytes_per_s": 10_000.0})  # delay is per way: 2 s there and back


def run(run: Run) -> Row:
    """Each weather for 25 s, 200 jobs."""
    seconds, jobs = run.pick(25, 3), run.pick(200, 25)
    weather = WEATHER[:1] if run.short else WEATHER
    with wired_storm(run, per_s=4) as wired:
        times = iter(weather)

        def storm() -> None:
            wired.wait_busy()
            wired.storm.cluster.ledger.note("cut", worker=wired.far.name)
            for name, value in {**SOUND, **next(times)}.items():
                setattr(wired.link, name, value)
            time.sleep(seconds)
            for name, value in SOUND.items():
                setattr(wired.link, name, value)

        wired.storm.rage(storm, faults=len(weather), jobs=jobs, every_s=(1.0, 2.0))
        return wired.row("network_loss", packets_passed=wired.link.passed)
