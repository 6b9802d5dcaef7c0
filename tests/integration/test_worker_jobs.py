"""A real worker process runs probe jobs to every end they can have."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.broker import create_celery
from shared.records.job import JobState
from shared.settings import Settings
from shared.storage import ObjectStore
from shared.store import keys
from shared.store.doorbell import TASK_NAME
from shared.store.events import EventLog
from shared.store.jobs import JobStore
from tests.support.polling import PATIENCE_S, eventually
from tests.support.workers import Worker, submit, until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def worker(settings: Settings, store: JobStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One worker for this file, on the pool `jobs`."""
    own = settings.model_copy(update={"pool": "jobs", "kinds": "probe", "slots": 2})
    worker = Worker(own, store, tmp_path_factory.mktemp("worker"))
    yield worker
    assert worker.stop() == 0, worker.log
    assert "Traceback" not in worker.log


@pytest.fixture
def pool(worker: Worker) -> str:
    return "jobs"


def test_a_probe_succeeds(store: JobStore, tenant: str, pool: str, worker: Worker) -> None:
    record = until(store, tenant, submit(store, tenant, pool))
    assert record.state is JobState.SUCCEEDED
    assert record.worker == worker.name
    assert record.attempt == 1
    assert record.result is not None
    assert record.result["images"] == []
    assert record.result["software"].startswith("dreamqueue ")
    assert {"queue_s", "run_s"} <= record.timings.keys()
    assert [attempt.outcome for attempt in record.attempts] == ["succeeded"]


def test_the_log_names_a_job_when_it_is_claimed(store: JobStore, tenant: str, pool: str, worker: Worker) -> None:
    """So that the log of a worker that was killed names the jobs it held."""
    job_id = submit(store, tenant, pool, steps=1000, step_s=0.05)
    until(store, tenant, job_id, "running")
    line = eventually(
        lambda: next((line for line in worker.log.splitlines() if "job claimed" in line and job_id in line), None)
    )
    store.cancel(tenant, job_id)
    assert all(part in line for part in (f"job_id={job_id}", "kind=probe", "attempt=1", f"tenant={tenant}")), line
    until(store, tenant, job_id, "cancelled")


def test_an_artifact_is_there_with_its_digest(store: JobStore, objects: ObjectStore, tenant: str, pool: str) -> None:
    record = until(store, tenant, submit(store, tenant, pool, write_bytes=100_000))
    assert record.result is not None
    (file,) = record.result["files"]
    body = objects.get(file["key"])
    assert file["name"] == "probe.bin"
    assert file["bytes"] == len(body) == 100_000
    assert file["sha256"] == hashlib.sha256(body).hexdigest()
    assert file["key"].startswith(f"{tenant}/jobs/{record.id}/a1/")
    assert record.timings["upload_s"] > 0


def test_progress_is_written_and_grows(store: JobStore, tenant: str, pool: str) -> None:
    record = until(store, tenant, submit(store, tenant, pool, steps=8, step_s=0.1))
    events = EventLog(store.redis).read(tenant, record.id)
    fractions = [event.data["fraction"] for event in events if event.type == "progress"]
    assert len(fractions) >= 3
    assert fractions == sorted(fractions)
    assert events[0].type == "queued"
    assert events[1].type == "started"
    assert events[-1].type == "finished"
    assert record.progress["stage"] == "probe"


def test_a_failure_is_retried_once(store: JobStore, tenant: str, pool: str) -> None:
    record = until(store, tenant, submit(store, tenant, pool, fail="once"))
    assert record.state is JobState.SUCCEEDED
    assert (record.attempt, record.failures) == (2, 1)
    assert [attempt.outcome for attempt in record.attempts] == ["retried", "succeeded"]
    assert record.attempts[0].error is not None
    assert record.attempts[0].error["code"] == "probe_failed"


def test_retries_end(store: JobStore, tenant: str, pool: str, settings: Settings) -> None:
    record = until(store, tenant, submit(store, tenant, pool, fail="always"))
    assert record.state is JobState.FAILED
    assert record.attempt == settings.max_failures
    assert record.error is not None
    assert record.error["code"] == "probe_failed"


def test_a_permanent_failure_is_not_retried(store: JobStore, tenant: str, pool: str) -> None:
    record = until(store, tenant, submit(store, tenant, pool, fail="permanently"))
    assert (record.state, record.attempt) == (JobState.FAILED, 1)


def test_a_spec_that_is_no_longer_valid_fails_for_good(store: JobStore, tenant: str, pool: str) -> None:
    record = until(store, tenant, submit(store, tenant, pool, steps=-1))
    assert (record.state, record.attempt) == (JobState.FAILED, 1)
    assert record.error is not None
    assert record.error["code"] == "invalid_input"
    assert "steps" in record.error["message"]


def test_a_kind_the_pool_does_not_serve_fails_for_good(store: JobStore, tenant: str, pool: str) -> None:
    record = until(store, tenant, submit(store, tenant, pool, kind="rank", images=["img_" + "0" * 64], prompt="a"))
    assert record.state is JobState.FAILED
    assert record.error is not None
    assert record.error["code"] == "model_unavailable"


def test_a_running_job_is_cancelled_between_two_beats(
    settings: Settings, store: JobStore, tenant: str, tmp_path: Path
) -> None:
    """Its worker is told at once: of a beat that comes in ten minutes this job cannot hear."""
    own = settings.model_copy(update={"pool": f"of-{tenant}", "kinds": "probe", "beat_s": 600.0, "lease_s": 1800.0})
    worker = Worker(own, store, tmp_path)
    job_id = submit(store, tenant, own.pool, steps=1000, step_s=0.5)
    until(store, tenant, job_id, "running")
    assert store.cancel(tenant, job_id) is JobState.RUNNING
    assert until(store, tenant, job_id).state is JobState.CANCELLED
    assert worker.stop() == 0


def test_a_queued_job_is_cancelled_at_once(store: JobStore, tenant: str, pool: str) -> None:
    busy = [submit(store, tenant, pool, steps=60, step_s=0.05) for _ in range(2)]
    for job_id in busy:
        until(store, tenant, job_id, "running")
    waiting = submit(store, tenant, pool)
    assert store.cancel(tenant, waiting) is JobState.CANCELLED
    for job_id in busy:
        assert until(store, tenant, job_id).state is JobState.SUCCEEDED
    record = store.get(tenant, waiting)
    assert (record.state, record.attempt) == (JobState.CANCELLED, 0)


def test_a_deadline_ends_a_running_job(store: JobStore, tenant: str, pool: str) -> None:
    record = until(store, tenant, submit(store, tenant, pool, steps=1000, step_s=0.05, deadline_s=3.0))
    assert record.state is JobState.FAILED
    assert record.error is not None
    assert record.error["code"] == "deadline_exceeded"
    assert record.attempt == 1
    assert record.finished_at_ms is not None
    assert record.finished_at_ms - record.created_at_ms >= 3000


def test_a_doorbell_of_celery_itself_is_answered(
    store: JobStore, settings: Settings, tenant: str, pool: str, worker: Worker
) -> None:
    """With arguments a newer version might send."""
    job_id = submit(store, tenant, pool)
    store.redis.delete(keys.bell(pool))
    with create_celery(settings.model_copy(update={"pool": pool})) as app:
        app.send_task(TASK_NAME, args=["from the future"], kwargs={"more": 1})
    assert until(store, tenant, job_id).state is JobState.SUCCEEDED


def test_a_lost_doorbell_is_rung_again(store: JobStore, tenant: str, pool: str) -> None:
    job_id = submit(store, tenant, pool)
    store.redis.delete(keys.bell(pool))
    assert until(store, tenant, job_id).state is JobState.SUCCEEDED


def test_the_worker_describes_itself(worker: Worker) -> None:
    info = worker.info()
    assert info is not None
    assert (info.state, info.slots, info.kinds, info.device) == ("ready", 2, ["probe"], "none")


def test_metrics_are_served(worker: Worker, store: JobStore, tenant: str, pool: str) -> None:
    until(store, tenant, submit(store, tenant, pool))
    info = worker.info()
    assert info is not None

    def counted() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{info.metrics_port}/metrics", timeout=PATIENCE_S) as reply:
            text = reply.read().decode()
        return 'dreamqueue_job_run_seconds_count{kind="probe",outcome="succeeded"}' in text

    assert eventually(counted)


def test_a_worker_of_probes_loads_no_torch(worker: Worker) -> None:
    maps = Path(f"/proc/{worker.process.pid}/maps").read_text()
    assert "libtorch" not in maps


def test_nothing_of_a_run_is_left_behind(store: JobStore, tenant: str, pool: str) -> None:
    job_id = submit(store, tenant, pool, steps=3, step_s=0.02)
    until(store, tenant, job_id)
    assert store.redis.zscore("dq:leases", keys.ref(tenant, job_id)) is None
    assert json.loads(store.redis.hget(keys.job(tenant, job_id), "result") or "{}")["files"] == []  # type: ignore[arg-type]
