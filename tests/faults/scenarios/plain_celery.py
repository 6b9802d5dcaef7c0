"""The storm of worker_kill on plain Celery: the same load, the same kills, late acks, visibility timeout of 10 s.

Nothing is expected of it but figures. Accepted: apply_async returned. Lost: never ended, and nothing has moved for
four visibility timeouts. Double commit: a task that ended more than once.
"""

from __future__ import annotations

import random
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

from deploy.local.processes import Command, Process
from tests.faults.cluster import RESTART_S
from tests.faults.ledger import Entry, Ledger
from tests.faults.load import short_probe
from tests.faults.report import Row
from tests.faults.scenarios.worker_kill import EVERY_S, PER_S, SPARED, WORKERS
from tests.faults.storm import Run
from tests.faults.verdict import quantile
from tests.support.polling import eventually
from tests.support.servers import RedisServer

__all__ = ["run"]

SLOTS = 4  # as a worker of ours has by default


class Fleet:
    """Celery workers in stations; `tick` starts what should run and does not."""

    def __init__(self, folder: Path, ledger: Ledger, url: str) -> None:
        self.folder, self.ledger, self.url = folder, ledger, url
        self.names = [""] * WORKERS
        self.processes: list[Process | None] = [None] * WORKERS
        self.ended_at = [0.0] * WORKERS
        self.incarnations = 0

    def tick(self) -> None:
        """One look at every station."""
        for number, process in enumerate(self.processes):
            if process and process.exit_code is None:
                continue
            if not process or time.monotonic() - self.ended_at[number] > RESTART_S:
                self._start(number)

    def ready(self) -> list[int]:
        """Stations whose worker lives and consumes."""
        return [
            number
            for number, process in enumerate(self.processes)
            if process and process.exit_code is None and (self.folder / f"ready-{self.names[number]}").exists()
        ]

    def kill(self, number: int) -> None:
        """kill -9 of a worker with all of its processes."""
        self.ledger.note("kill", worker=self.names[number])
        process = self.processes[number]
        assert process
        process.kill()
        self.ended_at[number] = time.monotonic()

    def stop(self) -> None:
        """End them all."""
        for process in self.processes:
            if process:
                process.kill()

    def _start(self, number: int) -> None:
        self.incarnations += 1
        name = self.names[number] = f"c{number}-{self.incarnations}"
        argv = [
            sys.executable, "-m", "celery", "-A", "tests.faults.late_celery", "worker", "--pool=threads", "-c",
            str(SLOTS), "-n", name, "--loglevel=warning", "--without-gossip", "--without-mingle",
        ]  # fmt: skip
        env = {"LATE_CELERY_URL": self.url, "FAULTS_LEDGER": str(self.ledger.path), "FAULTS_WORKER": name}
        self.processes[number] = Process(Command(name, argv, env), self.folder / "workers" / f"{name}.log")


def run(run: Run) -> Row:
    """100 kills, 2,000 tasks, as worker_kill."""
    from tests.faults.late_celery import VISIBILITY_S, app, nap

    ledger = Ledger(run.folder / "ledger.jsonl")
    server = RedisServer(run.folder / "redis")
    app.conf.broker_url = server.url.removesuffix("/0") + "/1"
    fleet = Fleet(run.folder, ledger, app.conf.broker_url)
    kills, jobs = run.pick(100, 3), run.pick(2_000, 50)
    try:
        with app.producer_pool.acquire(block=True) as producer:
            fleet.tick()
            nap.apply_async(("warm", 0.0), producer=producer)
            eventually(lambda: ledger.read("commit"), what="the first task")
            _storm(run, fleet, lambda job_id, nap_s: nap.apply_async((job_id, nap_s), producer=producer), kills, jobs)
        _until_quiet(ledger, fleet, 4 * VISIBILITY_S if not run.short else 2 * VISIBILITY_S)
    finally:
        fleet.stop()
        server.process.kill()
        app.pool.force_close_all()
    return _row(run, ledger.read(), kills, VISIBILITY_S)


def _storm(run: Run, fleet: Fleet, give: object, kills: int, jobs: int) -> None:
    rng = random.Random(run.seed)
    started_at = time.monotonic()
    kill_at, made, given = started_at + rng.uniform(*EVERY_S), 0, 0
    while made < kills or given < jobs:
        time.sleep(0.01)
        fleet.tick()
        now = time.monotonic()
        if given < (now - started_at) * PER_S:
            body = short_probe(random.Random(f"{run.seed}:{given}"))["input"]
            job_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
            give(job_id, body["steps"] * body["step_s"])  # type: ignore[operator]
            fleet.ledger.note("accepted", sync=True, id=job_id)
            given += 1
        if made < kills and now >= kill_at:
            ready = fleet.ready()
            if len(ready) > SPARED:
                fleet.kill(rng.choice(ready))
                made += 1
                kill_at = now + rng.uniform(*EVERY_S)


def _until_quiet(ledger: Ledger, fleet: Fleet, quiet_s: float) -> None:
    """Until all have ended, or nothing has moved for so long."""
    moved_at, seen = time.monotonic(), -1
    accepted = {entry.id for entry in ledger.read("accepted")}
    while time.monotonic() - moved_at < quiet_s:
        fleet.tick()
        entries = ledger.read("run", "commit")
        if len(entries) != seen:
            moved_at, seen = time.monotonic(), len(entries)
        if accepted <= {entry.id for entry in entries if entry.what == "commit"} and time.monotonic() - moved_at > 15:
            return  # longer than the visibility timeout: nothing comes a second time any more
        time.sleep(0.5)


def _row(run: Run, entries: list[Entry], kills: int, visibility_s: int) -> Row:
    accepted = {entry.id for entry in entries if entry.what == "accepted"}
    ended = Counter(entry.id for entry in entries if entry.what == "commit")
    runs = Counter(entry.id for entry in entries if entry.what == "run")
    found = sorted(_recoveries_s(entries))
    return Row(
        "plain_celery", run.seed, len(accepted), len(accepted - set(ended)), sum(ended[one] > 1 for one in accepted),
        quantile(found, 0.5), quantile(found, 0.99),
        extra={"kills": kills, "recoveries": len(found), "visibility_timeout_s": visibility_s, "restore_interval_s": 2,
               "never_started": len(accepted - set(runs)), "longest_still_s": round(max(found, default=0.0), 2)},
    )  # fmt: skip


def _recoveries_s(entries: list[Entry]) -> list[float]:
    """From a kill to the next start of each task that ran there and had not ended."""
    found = []
    for kill in (entry for entry in entries if entry.what == "kill"):
        before = [entry for entry in entries if entry.what in ("run", "commit") and entry.at <= kill.at]
        last = {entry.id: entry for entry in before if entry.data["worker"] == kill.data["worker"]}
        for job_id, entry in last.items():
            if entry.what == "run":
                after = (e.at for e in entries if e.what == "run" and e.at > kill.at and e.id == job_id)
                again = next(after, None)
                if again:
                    found.append(again - kill.at)
    return found
