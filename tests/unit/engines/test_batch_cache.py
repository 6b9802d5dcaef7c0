"""One batch for all jobs with the same key."""

from __future__ import annotations

import threading

from tests.unit.engines.test_batch import Count, Counters
from worker.engines.scheduling.batch_cache import BatchCache
from worker.engines.scheduling.device import Device


def test_jobs_of_one_key_share_a_batch_and_its_stepper() -> None:
    cache = BatchCache[Count, Counters](Device("cpu"), "probe")
    one, same = cache.get(("a", 1), Counters), cache.get(("a", 1), Counters)
    other = cache.get(("a", 2), Counters)
    assert one is same
    assert other.batch is not one.batch
    rows = [Count(3)]
    with one.batch.joined(rows, lambda: None) as turns:
        assert [row for finished in turns for row in finished] == rows
    assert len(one.stepper.steps) == 3
    assert other.stepper.steps == []


def test_two_that_come_at_once_make_one() -> None:
    cache = BatchCache[Count, Counters](Device("cpu"), "probe")
    begun, may_end, made = threading.Event(), threading.Event(), list[Counters]()

    def slowly() -> Counters:
        begun.set()
        assert may_end.wait(10)
        made.append(Counters())
        return made[-1]

    found = []
    threads = [threading.Thread(target=lambda: found.append(cache.get("a", slowly))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    may_end.set()
    for thread in threads:
        thread.join(10)
    assert len(made) == 1
    assert found[0] is found[1]
