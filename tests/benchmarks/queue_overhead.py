"""What the queue itself costs: probe jobs that do nothing, one worker, beside plain Celery no-ops in the same run."""

from __future__ import annotations

import json
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import redis

from deploy.local.processes import Command, Process, wait_until
from deploy.local.stack import Stack, StackOptions
from shared.records.job import JobRecord, JobState, NewJob
from shared.store.events import EventLog
from shared.store.jobs import JobStore
from shared.store.redis import connect
from tests.benchmarks.http_load import request_bytes, run_load
from tests.benchmarks.plain_celery import DONE
from tests.benchmarks.report import Report

SLOW_JOBS = 150  # at 10 a second
FAST_JOBS = 2_000
HTTP_S = 6.0
ENDED_EARLY = 20  # jobs cancelled, and as many whose time runs out
WAITED_FOR, WAITERS = 3, 50  # jobs, and who waits for each
TENANT = "bench"


def run(report: Report) -> None:
    """Queue, HTTP and peer, on one stack."""
    with tempfile.TemporaryDirectory(prefix="dq-bench-") as folder:
        from deploy.local.servers import free_port

        options = StackOptions(Path(folder), free_port(), env={"DREAMQUEUE_KINDS": "probe", "DREAMQUEUE_SLOTS": "8"})
        with Stack(options, say=print) as stack:
            client = connect(stack.settings, timeout_s=60)
            store = JobStore(client, stack.settings)
            _queue(report, store, stack)
            _interrupted(report, store)
            _plain_celery(report, client, stack, Path(folder))
            _http(report, stack)
            _long_polls(report, stack)


def _job(deadline_s: float | None = None, **spec: Any) -> NewJob:
    spec = {"kind": "probe", **spec}
    return NewJob(str(uuid.uuid4()), TENANT, "probe", "default", spec, fingerprint="bench", deadline_s=deadline_s)


def _queue(report: Report, store: JobStore, stack: Stack) -> None:
    log = EventLog(store.redis)

    def turn_around() -> None:
        job_id = store.submit(_job()).id
        after = "0-0"
        while True:
            for event in log.read(TENANT, job_id, after=after, block_ms=10_000):
                after = event.id
                if event.type == "finished":
                    assert event.data["state"] == "succeeded"
                    return

    times = _paced(turn_around)
    report.add("queue_turnaround_p50_ms", _quantile(times, 0.5), "ms", at_most=15)
    report.add("queue_turnaround_p99_ms", _quantile(times, 0.99), "ms")

    def done() -> int:
        return store.fleet.counts().get(("probe", "succeeded"), 0)

    before = done()
    with _held_still(stack.worker_processes()):
        for _ in range(FAST_JOBS):
            store.submit(_job())
    report.add(
        "queue_jobs_per_s", FAST_JOBS / _seconds_until(lambda: done() - before >= FAST_JOBS), "jobs/s", at_least=200
    )


def _interrupted(report: Report, store: JobStore) -> None:
    """How soon a running job ends that is cancelled (told at once, not by the next beat), or whose time is over."""
    cancels, overruns = [], []
    for _ in range(ENDED_EARLY):
        job_id = store.submit(_job(steps=1000, step_s=0.05)).id
        _seconds_until(lambda job_id=job_id: store.get(TENANT, job_id).state is JobState.RUNNING)  # type: ignore[misc]
        asked_at_ms = store.now_ms()
        store.cancel(TENANT, job_id)
        cancels.append((_ended(store, job_id, JobState.CANCELLED).finished_at_ms or 0) - asked_at_ms)
        job_id = store.submit(_job(0.5, steps=1000, step_s=0.05)).id
        record = _ended(store, job_id, JobState.FAILED)
        overruns.append((record.finished_at_ms or 0) - record.created_at_ms - 500)
    report.add("queue_cancel_p99_ms", _quantile([ms / 1000 for ms in cancels], 0.99), "ms", at_most=300)
    report.add("queue_deadline_overrun_p99_ms", _quantile([ms / 1000 for ms in overruns], 0.99), "ms", at_most=1000)


def _ended(store: JobStore, job_id: str, state: JobState) -> JobRecord:
    """The record at its end, which must be this one."""
    _seconds_until(lambda: store.get(TENANT, job_id).is_final)
    record = store.get(TENANT, job_id)
    assert record.state is state, record
    return record


def _plain_celery(report: Report, client: redis.Redis, stack: Stack, folder: Path) -> None:
    from tests.benchmarks.plain_celery import noop

    url = stack.settings.redis_url.removesuffix("/0") + "/1"
    peer = redis.Redis.from_url(url, socket_timeout=60)
    noop.app.conf.broker_url = url
    argv = [
        sys.executable, "-m", "celery", "-A", "tests.benchmarks.plain_celery", "worker", "--pool=threads", "-c", "8",
        "-Q", "plain", "--loglevel=warning", "--without-gossip", "--without-mingle",
    ]  # fmt: skip
    worker = Process(Command("plain", argv, env={"PLAIN_CELERY_URL": url}), folder / "plain.log")
    try:

        def turn_around() -> None:
            noop.apply_async((uuid.uuid4().hex,))
            assert peer.brpop([DONE], timeout=30)

        wait_until(lambda: bool(peer.exists("_kombu.binding.plain")), worker, 60)
        turn_around()
        times = _paced(turn_around)
        report.add("celery_turnaround_p50_ms", _quantile(times, 0.5), "ms", peer="celery 5.7 apply_async")
        report.add("celery_turnaround_p99_ms", _quantile(times, 0.99), "ms", peer="celery 5.7 apply_async")
        with _held_still([worker]):
            for _ in range(FAST_JOBS):
                noop.apply_async((uuid.uuid4().hex,))
        seconds = _seconds_until(lambda: peer.llen(DONE) >= FAST_JOBS)
        report.add("celery_jobs_per_s", FAST_JOBS / seconds, "jobs/s", peer="celery 5.7 apply_async")
    finally:
        worker.stop()
        peer.close()


def _http(report: Report, stack: Stack) -> None:
    port = stack.options.port
    body = json.dumps({"kind": "probe", "input": {}}).encode()
    with _held_still(stack.worker_processes()):
        load = run_load(
            port, request_bytes("POST", "/v1/jobs", stack.api_key, body), 202, connections=6, seconds=HTTP_S
        )
        assert load.errors == 0, f"{load.errors} submits were refused"
        report.add("http_submit_per_s", load.per_s, "requests/s", at_least=250)
        report.add("http_submit_p99_ms", load.quantile_ms(0.99), "ms", at_most=40)
        store = JobStore(connect(stack.settings), stack.settings)
        job = store.list_jobs("local", limit=1).jobs[0]
        load = run_load(
            port, request_bytes("GET", f"/v1/jobs/{job.id}", stack.api_key), 200, connections=6, seconds=HTTP_S
        )
        assert load.errors == 0, f"{load.errors} polls failed"
        report.add("http_poll_per_s", load.per_s, "requests/s", at_least=1000)
        report.add("http_poll_p99_ms", load.quantile_ms(0.99), "ms")


def _long_polls(report: Report, stack: Stack) -> None:
    """From the end of a job to the answer of everybody who waits for it."""
    store = JobStore(connect(stack.settings), stack.settings)
    headers = {"Authorization": f"Bearer {stack.api_key}"}
    limits = httpx.Limits(max_connections=WAITERS)
    late: list[float] = []
    with httpx.Client(base_url=stack.url, headers=headers, limits=limits, timeout=60) as http:

        def wait(job_id: str) -> float:
            job = http.get(f"/v1/jobs/{job_id}", params={"wait": 50}).json()
            answered_at_ms = store.now_ms()
            assert job["state"] == "succeeded", job
            return answered_at_ms / 1000

        for _ in range(WAITED_FOR):
            body = {"kind": "probe", "input": {"steps": 30, "step_s": 0.1}}
            job_id = http.post("/v1/jobs", json=body).json()["id"]
            with ThreadPoolExecutor(WAITERS) as threads:
                answered = list(threads.map(wait, [job_id] * WAITERS))
            ended_at_s = (store.get("local", job_id).finished_at_ms or 0) / 1000
            late += [at_s - ended_at_s for at_s in answered]
    report.add("http_wait_p99_ms", _quantile(late, 0.99), "ms", at_most=1000)


def _paced(action: Callable[[], None]) -> list[float]:
    """Times of `action`, started ten times a second."""
    times = []
    for number in range(SLOW_JOBS):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
        time.sleep(max(0.0, 0.1 - times[-1]) if number < SLOW_JOBS - 1 else 0)
    return times


def _quantile(times_s: list[float], share: float) -> float:
    return statistics.quantiles(times_s, n=100, method="inclusive")[int(share * 100) - 1] * 1000


def _seconds_until(fact: Callable[[], bool]) -> float:
    start = time.perf_counter()
    while not fact():
        assert time.perf_counter() - start < 120, "the worker is stuck"
        time.sleep(0.02)
    return time.perf_counter() - start


@contextmanager
def _held_still(processes: list[Process]) -> Iterator[None]:
    """SIGSTOP the workers meanwhile, so that work piles up (or cores stay free)."""
    for process in processes:
        process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.signal(signal.SIGCONT)
