"""Real pictures under kills: what a job draws after losing its workers is what it draws undisturbed, byte by byte.

Batches are deterministic: after a kill a job is co-batched with others than in peace, where sums may go another way.
"""

from __future__ import annotations

from typing import Any

from tests.faults.cluster import LEASE_S, TENANT, Station
from tests.faults.report import Row
from tests.faults.storm import Run, Storm

__all__ = ["run"]

PROMPTS = ("a red apple", "a rocket", "a cat face")
SNAPSHOT_S = 1.0
WITHIN_S = 300.0


def run(run: Run) -> Row:
    """Three jobs of each kind, drawn twice: once in peace, once while 6 kills hit their workers."""
    kills = run.pick(6, 1)
    bodies = [_body(kind, prompt, run) for prompt in PROMPTS[: run.pick(3, 1)] for kind in ("vqgan_clip", "dalle")]
    stations = [Station(number) for number in range(2)]
    # Six kills hit the same few jobs again and again; that they are given up after three is worker_kill's matter.
    own = {"kinds": "dalle,vqgan_clip", "slots": 3, "max_losses": 10, "snapshot_every_s": SNAPSHOT_S,
           "deterministic": True}  # fmt: skip
    with Storm.of(run, per_s=1, stations=stations, **own) as storm:
        calm = [storm.load.give_one(body) for body in bodies]
        for job_id in calm:
            storm.wait_final(job_id, WITHIN_S)
        stormy: list[str] = []

        def kill() -> None:
            stormy.extend(storm.load.give_one(body) for body in bodies[len(stormy) :])
            storm.wait_running(WITHIN_S)
            storm.cluster.kill_worker(storm.busy_station())

        storm.rage(kill, faults=kills, jobs=0, every_s=(2.0, 6.0))
        verdict = storm.verdict(WITHIN_S)
        drawn = [(_digests(storm, one), _digests(storm, other)) for one, other in zip(calm, stormy, strict=True)]
        row = Row.of("pictures", run.seed, verdict, kills=kills, lease_s=LEASE_S, snapshot_every_s=SNAPSHOT_S,
                     same_pictures=sum(one == other for one, other in drawn), jobs=len(drawn))  # fmt: skip
    row.expect(all(one and one == other for one, other in drawn), "a disturbed job drew another picture")
    return row


def _body(kind: str, prompt: str, run: Run) -> dict[str, Any]:
    own = {"iterations": run.pick(60, 20)} if kind == "vqgan_clip" else {"n": 4, "temperature": 0.8}
    return {"kind": kind, "input": {"prompts": [prompt], "seed": run.seed, **own}}


def _digests(storm: Storm, job_id: str) -> list[str]:
    result = storm.cluster.store.get(TENANT, job_id).result or {}
    return [str(image["sha256"]) for image in result.get("images", [])]
