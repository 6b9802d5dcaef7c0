"""What a worker's death, a drain, and an outage of either server do to jobs: nothing is lost, nothing done twice."""

from __future__ import annotations

import hashlib
import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import LeaseLost, StoreUnavailable
from shared.records.job import JobState
from shared.settings import Settings
from shared.storage import ObjectStore
from shared.store import keys
from shared.store.jobs import JobStore
from shared.store.redis import connect
from tests.faults.object_faults import ObjectFaults
from tests.support.faulty_probes import HANGING_STEPS, HUNGRY_STEPS
from tests.support.polling import PATIENCE_S, eventually
from tests.support.servers import ObjectServer, RedisServer
from tests.support.workers import Worker, submit, until
from worker.maintenance.watchdog import EXIT_CODE

pytestmark = pytest.mark.integration

FAULTY = ("-m", "tests.support.faulty_probes")


@pytest.fixture
def probes(settings: Settings, pool: str) -> Settings:
    """Settings of a worker of probes on this test's pool."""
    return settings.model_copy(update={"pool": pool, "kinds": "probe", "slots": 2})


class TestKilled:
    """kill -9."""

    def test_its_job_finishes_once_on_another(
        self, probes: Settings, store: JobStore, objects: ObjectStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        first = Worker(probes, store, tmp_path)
        job_id = submit(store, tenant, pool, steps=40, step_s=0.1, write_bytes=1000)
        until(store, tenant, job_id, "running")
        first.kill()
        second = Worker(probes, store, tmp_path)
        again = eventually(
            lambda: record if (record := store.get(tenant, job_id)).worker == second.name else None,
            what="the job on the second worker",
        )
        assert again.attempt == 2
        record = until(store, tenant, job_id)
        assert record.state is JobState.SUCCEEDED
        assert [attempt.outcome for attempt in record.attempts] == ["lost", "succeeded"]
        assert (record.losses, record.failures) == (1, 0)
        assert record.result is not None
        (file,) = record.result["files"]
        assert hashlib.sha256(objects.get(file["key"])).hexdigest() == file["sha256"]
        assert second.stop() == 0

    def test_a_job_that_kills_its_workers_fails_at_last(
        self, probes: Settings, store: JobStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        quick = probes.model_copy(update={"lease_s": 2.0, "beat_s": 0.3})
        job_id = submit(store, tenant, pool, steps=1000, step_s=0.1)
        for number in range(1, quick.max_losses + 1):
            worker = Worker(quick, store, tmp_path)
            eventually(lambda wanted=number: store.get(tenant, job_id).attempt == wanted)  # type: ignore[misc]
            worker.kill()
        worker = Worker(quick, store, tmp_path)
        record = until(store, tenant, job_id)
        assert record.state is JobState.FAILED
        assert record.error is not None
        assert record.error["code"] == "worker_lost"
        assert worker.stop() == 0

    @pytest.mark.parametrize(
        ("point", "passes", "outcomes"),
        [
            ("after_claim", 2, ["lost", "succeeded"]),
            ("before_upload", 2, ["lost", "succeeded"]),
            ("after_upload", 2, ["lost", "succeeded"]),
            ("after_commit", 2, ["succeeded"]),
        ],
    )
    def test_it_dies_in_the_gap_it_is_told(
        self, point: str, passes: int, outcomes: list[str], probes: Settings, store: JobStore, objects: ObjectStore,
        tenant: str, pool: str, tmp_path: Path,
    ) -> None:  # fmt: skip
        """The first job passes, the second meets its worker's death there, and ends once on another worker."""
        quick = probes.model_copy(update={"lease_s": 2.0, "beat_s": 0.3})
        doomed = Worker(quick, store, tmp_path, arguments=("-m", "tests.support.doomed", f"{point}:{passes}"))
        first = until(store, tenant, submit(store, tenant, pool, write_bytes=10))
        assert (first.state, first.attempt) == (JobState.SUCCEEDED, 1)
        second = submit(store, tenant, pool, write_bytes=10)
        eventually(lambda: doomed.process.exit_code is not None)
        assert doomed.process.stop() == -signal.SIGKILL
        assert f"failpoint {point}" in doomed.log
        other = Worker(quick, store, tmp_path)
        record = until(store, tenant, second)
        assert [attempt.outcome for attempt in record.attempts] == outcomes
        assert record.result is not None
        (file,) = record.result["files"]
        assert hashlib.sha256(objects.get(file["key"])).hexdigest() == file["sha256"]
        assert other.stop() == 0

    def test_a_frozen_worker_cannot_commit_late(
        self, probes: Settings, store: JobStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        frozen = Worker(probes, store, tmp_path)
        job_id = submit(store, tenant, pool, steps=30, step_s=0.1, write_bytes=10)
        until(store, tenant, job_id, "running")
        frozen.process.signal(signal.SIGSTOP)
        try:
            other = Worker(probes, store, tmp_path)
            record = until(store, tenant, job_id)
            fenced = store.fleet.counts().get(("all", "fenced"), 0)
        finally:
            frozen.process.signal(signal.SIGCONT)
        assert record.worker == other.name
        eventually(lambda: "lost" in frozen.log, what="the late worker's discard")
        after = store.get(tenant, job_id)
        assert after == record  # final states never change
        assert after.result is not None
        assert after.result["files"][0]["key"].split("/")[-2] == "a2"
        assert store.fleet.counts().get(("all", "fenced"), 0) >= fenced
        assert (frozen.stop(), other.stop()) == (0, 0)


class TestHung:
    """A step that does not return."""

    def test_the_process_ends_and_only_the_hung_job_pays(
        self, probes: Settings, store: JobStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        own = probes.model_copy(update={"step_timeout_s": 2.0})
        worker = Worker(own, store, tmp_path, arguments=(*FAULTY, "hangs"))
        warm = until(store, tenant, submit(store, tenant, pool, steps=1))
        assert warm.state is JobState.SUCCEEDED
        hung = submit(store, tenant, pool, steps=HANGING_STEPS)
        sibling = submit(store, tenant, pool, steps=1000, step_s=0.05)
        until(store, tenant, sibling, "running")
        eventually(lambda: worker.process.exit_code is not None, what="the end of the process")
        assert worker.process.stop() == EXIT_CODE
        assert "hangs" in worker.log
        assert "Thread 0x" in worker.log  # the stacks
        given_back = store.get(tenant, sibling)
        assert (given_back.state, given_back.losses) == (JobState.QUEUED, 0)
        assert [attempt.outcome for attempt in given_back.attempts] == ["released"]
        store.cancel(tenant, sibling)
        other = Worker(own, store, tmp_path)
        record = until(store, tenant, hung)
        assert (record.state, record.losses, record.failures) == (JobState.SUCCEEDED, 1, 0)
        assert [attempt.outcome for attempt in record.attempts] == ["lost", "succeeded"]
        assert other.stop() == 0


class TestRecycled:
    """A worker that ends itself."""

    def test_after_so_many_jobs_it_drains_and_leaves(
        self, probes: Settings, store: JobStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        worker = Worker(probes.model_copy(update={"recycle_after_jobs": 3}), store, tmp_path)
        long = submit(store, tenant, pool, steps=60, step_s=0.05)
        until(store, tenant, long, "running")
        short = [submit(store, tenant, pool) for _ in range(5)]
        eventually(lambda: worker.process.exit_code is not None, what="the end of the process")
        assert worker.process.stop() == 0
        assert "recycles itself" in worker.log
        assert store.get(tenant, long).state is JobState.SUCCEEDED  # it fitted the grace
        states = [store.get(tenant, job_id).state for job_id in short]
        assert (
            sorted(states) == [JobState.QUEUED] * 2 + [JobState.SUCCEEDED] * 3
        )  # jobs of one millisecond have no order
        assert worker.info() is None


class TestOutOfMemory:
    """An engine that finds its device full."""

    def test_it_is_tried_once_more_and_then_final(
        self, probes: Settings, store: JobStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        own = probes.model_copy(update={"max_failures": 9})
        worker = Worker(own, store, tmp_path, arguments=(*FAULTY, "is full"))
        record = until(store, tenant, submit(store, tenant, pool, steps=HUNGRY_STEPS))
        assert (record.state, record.attempt) == (JobState.FAILED, 2)
        assert record.error == {"code": "out_of_memory", "message": "full", "retryable": False}
        assert worker.stop() == 0


class TestDrained:
    """SIGTERM, SIGINT."""

    def test_short_jobs_finish_and_no_others_start(
        self, probes: Settings, store: JobStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        worker = Worker(probes, store, tmp_path)
        running = [submit(store, tenant, pool, steps=30, step_s=0.1) for _ in range(2)]
        for job_id in running:
            until(store, tenant, job_id, "running")
        waiting = submit(store, tenant, pool)
        assert worker.stop() == 0
        assert [store.get(tenant, job_id).state for job_id in running] == [JobState.SUCCEEDED] * 2
        assert store.get(tenant, waiting).state is JobState.QUEUED
        assert worker.info() is None
        assert store.redis.llen(keys.bell(pool)) >= 1  # the next worker hears of it at once

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_long_jobs_go_back_without_a_penalty(
        self, number: signal.Signals, probes: Settings, store: JobStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        worker = Worker(probes.model_copy(update={"drain_grace_s": 0.5}), store, tmp_path)
        job_id = submit(store, tenant, pool, steps=1000, step_s=0.05)
        until(store, tenant, job_id, "running")
        assert worker.stop(number=number) == 0
        record = store.get(tenant, job_id)
        assert record.state is JobState.QUEUED
        assert (record.losses, record.failures, record.attempt) == (0, 0, 1)
        assert [attempt.outcome for attempt in record.attempts] == ["released"]
        assert store.redis.llen(keys.bell(pool)) >= 1

    def test_it_says_that_it_drains(
        self, probes: Settings, store: JobStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        worker = Worker(probes, store, tmp_path)
        job_id = submit(store, tenant, pool, steps=50, step_s=0.1)
        until(store, tenant, job_id, "running")
        worker.process.signal(signal.SIGTERM)
        eventually(lambda: (info := worker.info()) is not None and info.state == "draining")
        assert worker.stop() == 0
        assert store.get(tenant, job_id).state is JobState.SUCCEEDED

    def test_an_engine_that_hangs_does_not_keep_its_job(
        self, probes: Settings, store: JobStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        own = probes.model_copy(update={"drain_grace_s": 0.2})
        worker = Worker(own, store, tmp_path, arguments=(*FAULTY, "hangs"))
        job_id = submit(store, tenant, pool, steps=HANGING_STEPS)
        until(store, tenant, job_id, "running")
        assert worker.stop() == 0
        record = store.get(tenant, job_id)
        assert (record.state, record.losses) == (JobState.QUEUED, 0)
        assert worker.info() is None

    def test_celerys_own_command_does_the_same(
        self, probes: Settings, store: JobStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        arguments = (
            "-m", "celery", "-A", "worker.app", "worker", "-c", "2", "-Q", f"bell:{pool}",
            "--without-gossip", "--without-mingle", "--without-heartbeat",
        )  # fmt: skip
        worker = Worker(probes, store, tmp_path, arguments=arguments)
        short, long = submit(store, tenant, pool), submit(store, tenant, pool, steps=30, step_s=0.1)
        assert until(store, tenant, short).state is JobState.SUCCEEDED
        until(store, tenant, long, "running")
        assert worker.stop() == 0
        assert store.get(tenant, long).state is JobState.SUCCEEDED


class TestRedisAway:
    """kill -9 of the server, and a start on the same append-only file."""

    @pytest.fixture
    def redis(self, tmp_path: Path) -> Iterator[RedisServer]:
        server = RedisServer(tmp_path / "redis")
        yield server
        server.process.stop()

    @pytest.fixture
    def own(self, probes: Settings, redis: RedisServer) -> Settings:
        """A stack of its own Redis, and a lease that outlasts the outage."""
        return probes.model_copy(update={"redis_url": redis.url, "lease_s": 10.0, "beat_s": 1.0})

    @pytest.fixture
    def own_store(self, own: Settings) -> Iterator[JobStore]:
        client = connect(own)
        yield JobStore(client, own)
        client.close()

    def test_nothing_accepted_is_lost(
        self, own: Settings, own_store: JobStore, redis: RedisServer, tenant: str, tmp_path: Path
    ) -> None:
        worker = Worker(own, own_store, tmp_path)
        accepted = [submit(own_store, tenant, own.pool, steps=4, step_s=0.1) for _ in range(12)]
        eventually(lambda: any(own_store.get(tenant, job_id).is_final for job_id in accepted))
        redis.kill()
        with pytest.raises(StoreUnavailable):
            own_store.ping()
        redis.start()
        accepted.append(submit(own_store, tenant, own.pool))
        records = [until(own_store, tenant, job_id) for job_id in accepted]
        assert worker.stop() == 0
        for record in records:
            assert record.state is JobState.SUCCEEDED
            ran = re.findall(rf"run ended .*attempt=(\d+) .*{record.id}", worker.log)
            assert ran == [str(record.attempt)], record.attempts  # a second one where the kill cut off a claim's answer

    def test_a_drain_ends_while_redis_is_away(
        self, own: Settings, own_store: JobStore, redis: RedisServer, tenant: str, tmp_path: Path
    ) -> None:
        worker = Worker(own.model_copy(update={"drain_grace_s": 1.0}), own_store, tmp_path)
        job_id = submit(own_store, tenant, own.pool, steps=1000, step_s=0.05)
        until(own_store, tenant, job_id, "running")
        redis.kill()
        assert worker.stop() == 0
        redis.start()
        assert own_store.get(tenant, job_id).state is JobState.RUNNING  # its lease brings it back


class TestObjectStoreAway:
    """kill -9 of the server between the engine's work and its upload."""

    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[ObjectServer]:
        server = ObjectServer(tmp_path / "objects")
        yield server
        server.process.stop()

    @pytest.fixture
    def impatient(self, probes: Settings, server: ObjectServer, tmp_path: Path) -> Settings:
        """Gives up an upload after one try, and comes back to it in a moment."""
        return probes.model_copy(
            update={
                **server.settings(),
                "upload_patience_s": 0.0,
                "retry_base_s": 1.0,
                "retry_cap_s": 1.0,
                "max_failures": 1,
                "lease_s": 2.0,
                "beat_s": 0.3,
                "spool_dir": str(tmp_path / "spool"),
            }
        )

    def test_no_step_is_repeated(
        self, probes: Settings, server: ObjectServer, store: JobStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        own = probes.model_copy(update=server.settings())
        worker = Worker(own, store, tmp_path)
        server.kill()
        job_id = submit(store, tenant, pool, write_bytes=1000, steps=2)
        until(store, tenant, job_id, "running")
        eventually(lambda: store.get(tenant, job_id).progress.get("step") == 2)
        server.start()
        record = until(store, tenant, job_id)
        assert record.state is JobState.SUCCEEDED
        assert record.attempt == 1  # retried in place
        assert steps_of(worker) == 2
        assert worker.stop() == 0

    def test_a_retry_uploads_what_was_made(
        self, impatient: Settings, server: ObjectServer, store: JobStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        """Patience of one try: the job goes back, no failure counts, and its output is still there."""
        worker = Worker(impatient, store, tmp_path)
        server.kill()
        job_id = submit(store, tenant, pool, write_bytes=1000, steps=5)
        first = eventually(lambda: next(iter(store.get(tenant, job_id).attempts), None))
        first = eventually(lambda: (a := store.get(tenant, job_id).attempts[0]).outcome and a, what="its end")
        assert first.outcome == "released"
        waiting = submit(store, tenant, pool)
        eventually(lambda: store.get(tenant, job_id).due_at_ms is None, what="the end of its wait")
        assert [store.get(tenant, name).state for name in (job_id, waiting)] == [JobState.QUEUED] * 2
        server.start()
        record = until(store, tenant, job_id)
        assert record.state is JobState.SUCCEEDED
        assert (record.failures, record.attempt) == (0, 2)  # nothing was claimed meanwhile
        assert until(store, tenant, waiting).attempt == 1
        assert record.attempts[0].error is not None
        assert record.attempts[0].error["code"] == "object_store_unavailable"
        assert steps_of(worker) == 5
        assert worker.stop() == 0
        assert list((tmp_path / "spool").iterdir()) == []

    def test_a_restarted_worker_uploads_what_the_killed_one_made(
        self, impatient: Settings, server: ObjectServer, store: JobStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        own = impatient.model_copy(update={"upload_patience_s": 300.0})
        doomed = Worker(own, store, tmp_path)
        server.kill()
        job_id = submit(store, tenant, pool, write_bytes=1000, steps=5)
        eventually(lambda: list((tmp_path / "spool").glob("*.out")), what="the output in the spool")
        doomed.kill()
        other = Worker(own, store, tmp_path)
        eventually(lambda: store.get(tenant, job_id).attempt == 2)
        server.start()
        record = until(store, tenant, job_id)
        assert record.state is JobState.SUCCEEDED
        assert [attempt.outcome for attempt in record.attempts] == ["lost", "succeeded"]
        assert steps_of(other) == 0
        assert "output found in the spool" in other.log
        assert other.stop() == 0

    def test_a_full_spool_stops_claims_and_loses_nothing(
        self, impatient: Settings, server: ObjectServer, store: JobStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        own = impatient.model_copy(update={"upload_patience_s": 300.0, "spool_max_bytes": 10})
        worker = Worker(own, store, tmp_path)
        server.kill()
        first = submit(store, tenant, pool, write_bytes=1000, steps=1)
        eventually(lambda: scraped(worker, "dreamqueue_spool_full") == 1, what="back-pressure")
        second = submit(store, tenant, pool)
        rung = store.fleet.counts().get(("all", "fenced"), 0)
        assert "nothing is claimed" in worker.log
        eventually(lambda: store.redis.llen(keys.bell(pool)) == 0, what="the second job's doorbell heard")
        assert store.get(tenant, second).attempt == 0
        server.start()
        for job_id in (first, second):
            record = until(store, tenant, job_id)
            assert (record.state, record.attempt) == (JobState.SUCCEEDED, 1)
        assert store.fleet.counts().get(("all", "fenced"), 0) == rung
        assert scraped(worker, "dreamqueue_spool_full") == 0
        assert worker.stop() == 0

    def test_what_was_spoilt_on_its_way_is_sent_again(
        self, impatient: Settings, server: ObjectServer, store: JobStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        layer = ObjectFaults(server.url, seed=0)
        own = impatient.model_copy(update={"s3_endpoint": layer.url, "upload_patience_s": 300.0})
        try:
            worker = Worker(own, store, tmp_path)
            layer.rates = {"spoilt": 1.0}
            job_id = submit(store, tenant, pool, write_bytes=1000, steps=3)
            eventually(lambda: layer.made["spoilt"] >= 2, what="two bodies spoilt")
            layer.rates = {}
            record = until(store, tenant, job_id)
            assert steps_of(worker) == 3
            assert worker.stop() == 0
        finally:
            layer.close()
        assert (record.state, record.attempt) == (JobState.SUCCEEDED, 1)
        assert record.result is not None
        (file,) = record.result["files"]
        stored = ObjectStore(impatient).get(file["key"])
        assert hashlib.sha256(stored).hexdigest() == file["sha256"]


def scraped(worker: Worker, name: str) -> float:
    """A value of the worker's own /metrics; 0.0 where it is not shown yet."""
    info = worker.info()
    assert info is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{info.metrics_port}/metrics", timeout=PATIENCE_S) as reply:
        lines = reply.read().decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)


def steps_of(worker: Worker) -> float:
    """How many steps the worker's probes took."""
    return scraped(worker, 'dreamqueue_engine_steps_total{kind="probe"}')


def test_a_settled_job_is_not_settled_again(store: JobStore, tenant: str, pool: str) -> None:
    """The fence itself, without a worker: the older attempt's commit is refused."""
    job_id = submit(store, tenant, pool)
    old = store.claim(pool, "old")
    assert old is not None
    store.release(old)
    new = store.claim(pool, "new")
    assert new is not None
    with pytest.raises(LeaseLost):
        store.commit(old, {"files": []}, {})
    assert store.commit(new, {"files": []}, {}) is JobState.SUCCEEDED
    assert store.get(tenant, job_id).worker == "new"
