"""A job that kills its workers: it runs alone in the end, fails with worker_lost, and takes no neighbour with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.records.job import JobRecord, JobState
from shared.settings import Settings
from shared.storage import ObjectStore
from shared.store.jobs import JobStore
from tests.support.faulty_probes import POISON_STEPS
from tests.support.polling import eventually
from tests.support.workers import Worker, submit, until

pytestmark = pytest.mark.integration


class Crew:
    """Workers that a supervisor starts again when they die."""

    def __init__(self, settings: Settings, store: JobStore, folder: Path, size: int) -> None:
        self._make = lambda: Worker(settings, store, folder, arguments=("-m", "tests.support.faulty_probes", "dies"))
        self.workers = [self._make() for _ in range(size)]
        self.deaths = 0

    def tend(self) -> None:
        for number, worker in enumerate(self.workers):
            if worker.process.exit_code is not None:
                worker.process.kill()  # closes its log
                self.deaths += 1
                self.workers[number] = self._make()

    def stop(self) -> None:
        for worker in self.workers:
            worker.kill()


@pytest.fixture
def crew(
    settings: Settings, store: JobStore, objects: ObjectStore, pool: str, tmp_path: Path
) -> Iterator[Crew]:  # objects: the bucket must be there
    own = settings.model_copy(
        update={"pool": pool, "kinds": "probe", "slots": 4, "lease_s": 2.5, "beat_s": 0.3, "isolate_after_s": 1.0}
    )
    made = Crew(own, store, tmp_path, 1)
    yield made
    made.stop()


def overlapping(record: JobRecord, others: list[JobRecord]) -> list[str]:
    """Jobs that the same worker ran during the record's last attempt."""
    last = record.attempts[-1]
    return [
        other.id
        for other in others
        for attempt in other.attempts
        if attempt.worker == last.worker
        and attempt.started_at_ms < (last.ended_at_ms or 0)
        and (attempt.ended_at_ms or 0) > last.started_at_ms
    ]


def test_it_alone_fails(crew: Crew, store: JobStore, tenant: str, pool: str) -> None:
    before = [submit(store, tenant, pool, steps=4, step_s=0.1) for _ in range(7)]
    poison = submit(store, tenant, pool, steps=POISON_STEPS)
    good = before + [submit(store, tenant, pool, steps=4, step_s=0.1) for _ in range(8)]

    def all_ended() -> bool:
        crew.tend()
        return all(store.get(tenant, job_id).is_final for job_id in [poison, *good])

    eventually(all_ended, what="every job's end")
    dead = store.get(tenant, poison)
    assert dead.state is JobState.FAILED
    assert dead.error is not None
    assert dead.error["code"] == "worker_lost"
    assert [attempt.outcome for attempt in dead.attempts] == ["lost"] * 3
    assert [attempt.alone for attempt in dead.attempts] == [False, False, True]
    assert crew.deaths == 3
    records = [store.get(tenant, job_id) for job_id in good]
    assert {record.state for record in records} == {JobState.SUCCEEDED}
    assert not overlapping(dead, records)


def test_a_busy_worker_empties_itself_for_a_suspect(crew: Crew, store: JobStore, tenant: str, pool: str) -> None:
    """New jobs keep coming, so no slot would ever be idle by itself; the suspect is an innocent one."""
    long = [submit(store, tenant, pool, steps=30, step_s=0.1) for _ in range(4)]
    for job_id in long:
        until(store, tenant, job_id, "running")
    innocent = submit(store, tenant, pool, steps=2)
    store.redis.hset(f"dq:job:{tenant}:{innocent}", "losses", 2)
    store.pause(tenant, innocent)
    store.resume(tenant, innocent)  # placed anew, by its losses

    def it_ended() -> JobRecord | None:
        if len(long) < 60 and store.redis.zcard(f"dq:ready:{pool}:{tenant}") < 4:
            long.append(submit(store, tenant, pool, steps=10, step_s=0.1))
        record = store.get(tenant, innocent)
        return record if record.is_final else None

    record = eventually(it_ended)
    assert record.state is JobState.SUCCEEDED
    assert [attempt.alone for attempt in record.attempts] == [True]
    assert crew.deaths == 0
    for job_id in long:
        assert until(store, tenant, job_id).state is JobState.SUCCEEDED
    assert not overlapping(record, [store.get(tenant, job_id) for job_id in long])
