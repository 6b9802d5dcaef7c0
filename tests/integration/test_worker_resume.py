"""A run that lost its worker goes on from its last snapshot on another one, to the same output."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.records.job import JobRecord, JobState, SavedRun
from shared.settings import Settings
from shared.storage import ObjectStore, snapshot_prefix
from shared.store.events import EventLog
from shared.store.jobs import JobStore
from tests.support.polling import eventually
from tests.support.tiny_models import write_tiny_models
from tests.support.workers import Worker, submit, until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

STEPS = 150


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_models(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def own(settings: Settings, pool: str) -> Settings:
    """Workers of this test's pool that save often and lose their jobs soon."""
    return settings.model_copy(
        update={"pool": pool, "kinds": "probe", "lease_s": 2.0, "beat_s": 0.3, "snapshot_every_s": 0.2, "slots": 1}
    )


@pytest.fixture
def painters(own: Settings, weights: Path) -> Settings:
    """The same with tiny models."""
    update = {"kinds": "dalle,vqgan_clip", "weights_dir": str(weights), "device": "cpu", "cpu_threads": 1}
    return own.model_copy(update=update)


def noted(store: JobStore, tenant: str, job_id: str) -> SavedRun | None:
    """The snapshot that the record names."""
    return store.get(tenant, job_id).snapshot


def stored(objects: ObjectStore, tenant: str, job_id: str) -> list[str]:
    """Names of the snapshots in the object store."""
    listed = objects._client.list_objects_v2(Bucket=objects.bucket, Prefix=snapshot_prefix(tenant, job_id))
    return [str(item["Key"]) for item in listed.get("Contents", [])]


def steps_of(store: JobStore, tenant: str, job_id: str, attempt: int) -> list[int]:
    """The steps that one attempt reported."""
    current, steps = 0, []
    for event in EventLog(store.redis).read(tenant, job_id, limit=1000):
        if event.type == "started":
            current = event.data["attempt"]
        if event.type == "progress" and current == attempt:
            steps.append(event.data["step"])
    return steps


def killed_after_a_snapshot(
    worker: Worker, store: JobStore, tenant: str, job_id: str, *, is_newer: bool = True
) -> SavedRun:
    """kill -9 once two snapshots are noted, or one for a run that may be over before the second; the last one noted."""
    first = eventually(lambda: noted(store, tenant, job_id), what="a snapshot")
    if is_newer:
        eventually(lambda: (saved := noted(store, tenant, job_id)) and saved.step > first.step, what="a newer snapshot")
    worker.kill()
    saved = noted(store, tenant, job_id)
    assert saved is not None
    assert store.get(tenant, job_id).state is JobState.RUNNING
    return saved


class TestKilled:
    """kill -9 in mid-run."""

    def test_a_picture_is_the_same_to_the_bit(
        self, painters: Settings, store: JobStore, objects: ObjectStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        spec = {
            "kind": "vqgan_clip", "prompts": ["a tree"], "iterations": STEPS, "size": [32, 32], "seed": 0,
            "preview_every": 50, "video": True, "cutouts": 4,
        }  # fmt: skip
        doomed = Worker(painters, store, tmp_path)
        job_id = submit(store, tenant, pool, **spec)
        saved = killed_after_a_snapshot(doomed, store, tenant, job_id)
        assert 0 < saved.step < STEPS
        other = Worker(painters, store, tmp_path)
        resumed = until(store, tenant, job_id)
        whole = until(store, tenant, submit(store, tenant, pool, **spec))
        assert (resumed.state, whole.state) == (JobState.SUCCEEDED, JobState.SUCCEEDED)
        assert [attempt.outcome for attempt in resumed.attempts] == ["lost", "succeeded"]
        assert digests(resumed) == digests(whole)
        assert all(step > saved.step for step in steps_of(store, tenant, job_id, 2))
        assert other.stop() == 0

    def test_finished_rows_are_not_sampled_again(
        self, painters: Settings, store: JobStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        """64 rows are a batch here."""
        spec = {"kind": "dalle", "prompts": ["a tree", "a heart"], "n": 256, "keep": 4, "seed": 0, "preview_every": 0}
        doomed = Worker(painters, store, tmp_path)
        job_id = submit(store, tenant, pool, **spec)
        saved = killed_after_a_snapshot(doomed, store, tenant, job_id, is_newer=False)
        assert saved.step % 64 == 0
        other = Worker(painters, store, tmp_path)
        resumed = until(store, tenant, job_id)
        whole = until(store, tenant, submit(store, tenant, pool, **spec))
        assert digests(resumed) == digests(whole)
        assert all(step > saved.step for step in steps_of(store, tenant, job_id, 2))
        assert other.stop() == 0

    def test_only_the_newest_snapshot_is_kept_and_none_after_the_end(
        self, own: Settings, store: JobStore, objects: ObjectStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        doomed = Worker(own, store, tmp_path)
        job_id = submit(store, tenant, pool, steps=100, step_s=0.03)
        saved = killed_after_a_snapshot(doomed, store, tenant, job_id)
        assert saved.key in stored(objects, tenant, job_id)
        assert len(stored(objects, tenant, job_id)) <= 2  # one before or after it may have been on its way
        other = Worker(own, store, tmp_path)
        assert until(store, tenant, job_id).state is JobState.SUCCEEDED
        assert noted(store, tenant, job_id) is None
        eventually(lambda: not stored(objects, tenant, job_id))
        assert other.stop() == 0

    @pytest.mark.parametrize("damage", ["other bytes", "gone"])
    def test_without_a_good_snapshot_it_starts_from_zero(
        self, damage: str, own: Settings, store: JobStore, objects: ObjectStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        doomed = Worker(own, store, tmp_path)
        job_id = submit(store, tenant, pool, steps=120, step_s=0.03)
        saved = killed_after_a_snapshot(doomed, store, tenant, job_id)
        if damage == "gone":
            objects.delete(saved.key)
        else:
            objects.put(saved.key, objects.get(saved.key).replace(b'"step"', b'"stop"'), "application/octet-stream")
        other = Worker(own, store, tmp_path)
        assert until(store, tenant, job_id).state is JobState.SUCCEEDED
        assert min(steps_of(store, tenant, job_id, 2)) <= saved.step
        assert "snapshot ignored" in other.log
        assert other.stop() == 0

    def test_it_dies_before_the_snapshot_is_stored(
        self, own: Settings, store: JobStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        """The second one never arrives; the first one counts."""
        doomed = Worker(own, store, tmp_path, arguments=("-m", "tests.support.doomed", "before_snapshot:2"))
        job_id = submit(store, tenant, pool, steps=120, step_s=0.03)
        eventually(lambda: doomed.process.exit_code is not None)
        doomed.process.stop()
        saved = noted(store, tenant, job_id)
        assert saved is not None
        other = Worker(own, store, tmp_path)
        assert until(store, tenant, job_id).state is JobState.SUCCEEDED
        assert all(step > saved.step for step in steps_of(store, tenant, job_id, 2))
        assert other.stop() == 0


class TestGivenBack:
    """SIGTERM, and the grace is short."""

    @pytest.fixture
    def brief(self, own: Settings) -> Settings:
        """No snapshot but the last one."""
        return own.model_copy(update={"drain_grace_s": 0.3, "snapshot_every_s": 3600.0})

    def test_the_last_snapshot_is_of_the_last_step(
        self, brief: Settings, store: JobStore, tenant: str, pool: str, tmp_path: Path
    ) -> None:
        worker = Worker(brief, store, tmp_path)
        job_id = submit(store, tenant, pool, steps=200, step_s=0.03)
        until(store, tenant, job_id, "running")
        assert worker.stop() == 0
        record, saved = store.get(tenant, job_id), noted(store, tenant, job_id)
        assert saved is not None
        assert (record.state, record.losses, record.failures) == (JobState.QUEUED, 0, 0)
        assert [attempt.outcome for attempt in record.attempts] == ["released"]
        assert saved.step >= max(steps_of(store, tenant, job_id, 1))
        other = Worker(brief, store, tmp_path)
        assert until(store, tenant, job_id).state is JobState.SUCCEEDED
        assert all(step > saved.step for step in steps_of(store, tenant, job_id, 2))
        assert other.stop() == 0

    def test_off_means_off(self, brief: Settings, store: JobStore, tenant: str, pool: str, tmp_path: Path) -> None:
        worker = Worker(brief.model_copy(update={"snapshot_every_s": 0.0}), store, tmp_path)
        job_id = submit(store, tenant, pool, steps=1000, step_s=0.03)
        until(store, tenant, job_id, "running")
        assert worker.stop() == 0
        assert store.get(tenant, job_id).state is JobState.QUEUED
        assert noted(store, tenant, job_id) is None


def digests(record: JobRecord) -> list[str]:
    """Of every artifact."""
    assert record.result is not None
    return [item["sha256"] for item in (*record.result["images"], *record.result["files"])]
