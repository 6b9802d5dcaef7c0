"""What a job costs in Redis: waiting, ended, after its events are gone, and once its record has expired."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path

from shared.records.job import Claim, NewJob
from shared.settings import Settings
from shared.specs.kinds import parse_spec
from shared.store.jobs import JobStore
from shared.store.redis import connect
from tests.benchmarks.report import Report
from tests.support.servers import RedisServer

JOBS = 1_000
PROGRESSES = 20  # events between start and end: what a job of a few seconds writes
TENANT = "bench"
INPUT = {"prompts": ["a red apple on a wooden table"], "n": 16, "keep": 4, "temperature": 0.8, "top_k": 64, "seed": 7}


def run(report: Report) -> None:
    """Bytes of Redis' memory per job, by what Redis itself says it uses."""
    with tempfile.TemporaryDirectory(prefix="dq-memory-") as folder:
        server = RedisServer(Path(folder))
        settings = Settings(redis_url=server.url)
        client = connect(settings, timeout_s=60)
        client.config_set("appendonly", "no")  # its buffers are no job's memory
        try:
            _measure(report, JobStore(client, settings))
        finally:
            client.close()
            server.process.stop()


def _measure(report: Report, store: JobStore) -> None:
    def per_job(since: int) -> float:
        return (int(store.redis.info("memory")["used_memory"]) - since) / JOBS

    _live(store)  # makes what there is one of: scripts, counts, the pool
    empty = int(store.redis.info("memory")["used_memory"])
    jobs = [_submitted(store) for _ in range(JOBS)]
    report.add("memory_queued_job_bytes", per_job(empty), "B", at_most=4_000)
    for _ in jobs:
        _end(store, _claimed(store))
    store.redis.delete("dq:bell:default")  # a worker hears each doorbell
    report.add("memory_ended_job_first_hour_bytes", per_job(empty), "B")
    for job_id in jobs:
        store.redis.delete(f"dq:events:{TENANT}:{job_id}")
    report.add("memory_ended_job_bytes", per_job(empty), "B", at_most=6_000)
    for job_id in jobs:
        store.sweeps.forget(TENANT, job_id)
    report.add("memory_expired_job_bytes", per_job(empty), "B", at_most=400)


def _submitted(store: JobStore) -> str:
    spec = parse_spec("dalle", INPUT).model_dump(mode="json")
    return store.submit(NewJob(str(uuid.uuid4()), TENANT, "dalle", "default", spec, fingerprint="0" * 64)).id


def _claimed(store: JobStore) -> Claim:
    claim = store.claim("default", "worker-1-abcdef")
    assert claim is not None
    return claim


def _end(store: JobStore, claim: Claim) -> None:
    for step in range(PROGRESSES):
        store.progress(claim, {"fraction": step / 20, "stage": "sample", "step": step, "total": 20})
    images = [
        {"name": f"{n:03d}.png", "key": f"{TENANT}/jobs/{claim.id}/a1/{n:03d}.png", "seed": 7, "index": n,
         "score": 0.3123, "width": 64, "height": 64, "bytes": 5_000, "sha256": "0" * 64, "prompt": INPUT["prompts"][0]}
        for n in range(4)
    ]  # fmt: skip
    models = [{"id": name, "family": "dalle", "sha256": "0" * 64} for name in ("emoji-dalle", "emoji-vqgan")]
    result = {"images": images, "files": [], "parameters": INPUT, "models": models, "software": "dreamqueue 0.1.0"}
    store.commit(claim, result, {"queue_s": 0.1, "sample_s": 1.0, "encode_s": 0.1, "upload_s": 0.1, "run_s": 1.3})


def _live(store: JobStore) -> None:
    _submitted(store)
    _end(store, _claimed(store))
