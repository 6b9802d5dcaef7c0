"""Snapshots on their way: seldom, one at a time, never waited for, and never of a job that is someone else's."""

from __future__ import annotations

import hashlib
import threading
import time

import pytest

from shared.errors import Draining, LeaseLost, NotFound, ObjectStoreUnavailable, Yielded
from shared.records.job import Claim, SavedRun
from shared.storage import StoredObject
from shared.store.jobs import Signal
from tests.support.polling import PATIENCE_S, eventually
from tests.unit.worker.test_run_context import Made
from worker.run.context import JobContext
from worker.run.failpoints import FailPoints
from worker.run.hooks import Ended
from worker.transfer.snapshots import EASY_BYTES, Snapshots


class Shelf:
    """An object store in memory, that may be held up or away, and a job store that notes."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.is_open = threading.Event()
        self.is_open.set()
        self.is_away = False
        self.answer = Signal.OK
        self.noted: list[int] = []

    def put(self, key: str, body: bytes, content_type: str) -> StoredObject:
        self.is_open.wait(PATIENCE_S)
        if self.is_away:
            raise ObjectStoreUnavailable("away")
        self.kept[key] = body
        return StoredObject(key, len(body), hashlib.sha256(body).hexdigest(), content_type)

    def get(self, key: str) -> bytes:
        if key not in self.kept:
            raise NotFound(key)
        return self.kept[key]

    def delete(self, key: str) -> None:
        self.kept.pop(key, None)

    def delete_prefix(self, prefix: str) -> int:
        self.kept = {key: body for key, body in self.kept.items() if not key.startswith(prefix)}
        return 0

    def note_snapshot(self, _claim: Claim, saved: SavedRun) -> Signal:
        if self.answer is Signal.OK:
            self.noted.append(saved.step)
        return self.answer


class Desk:
    """Snapshots over a shelf, and one run."""

    def __init__(self, every_s: float = 1e-9) -> None:
        self.shelf = Shelf()
        self.snapshots = Snapshots(self.shelf, self.shelf, every_s, FailPoints())  # type: ignore[arg-type]
        self.context = self.run()
        self.made: list[int] = []

    def run(self, snapshot: SavedRun | None = None) -> JobContext:
        return Made(events=self.snapshots, snapshot=snapshot).context

    def ends(self, outcome: str) -> None:
        self.snapshots.after_run(self.context, Ended(outcome, {}))

    def offer(self, step: int) -> None:
        def make() -> bytes:
            self.made.append(step)
            return b"%d" % step

        self.context.snapshot(step, make)

    def stores(self) -> None:
        """One turn of the thread."""
        self.snapshots._next()


def test_a_newer_one_takes_the_place_of_the_older() -> None:
    desk = Desk()
    for step in (1, 2):
        desk.offer(step)
        desk.stores()
    assert desk.shelf.noted == [1, 2]
    assert list(desk.shelf.kept.values()) == [b"2"]
    desk.ends("queued")
    desk.ends("succeeded")
    desk.stores()
    assert desk.shelf.kept == {}


def test_offers_are_passed_over_while_one_is_on_its_way() -> None:
    desk = Desk()
    desk.offer(1)
    desk.offer(2)
    desk.offer(3)
    assert desk.made == [1]
    desk.stores()
    desk.offer(4)
    assert desk.made == [1, 4]


@pytest.mark.parametrize("every_s", [0.0, 3600.0])
def test_nothing_is_made_before_it_is_due(every_s: float) -> None:
    desk = Desk(every_s)
    desk.offer(1)
    assert desk.made == []


def test_the_engine_does_not_wait_for_a_slow_store() -> None:
    desk = Desk()
    desk.shelf.is_open.clear()
    desk.snapshots.thread.start()
    for step in range(100):
        desk.offer(step)
    assert desk.shelf.noted == [], "the first is still on its way"
    assert desk.made == [0]
    desk.shelf.is_open.set()
    eventually(lambda: desk.shelf.noted == [0])
    desk.snapshots.thread.stop()
    desk.snapshots.thread.join(PATIENCE_S)


def test_a_run_does_not_fail_for_its_snapshot() -> None:
    desk = Desk()

    def broken() -> bytes:
        raise RuntimeError("no memory left to copy into")

    desk.context.snapshot(1, broken)
    desk.offer(2)
    desk.stores()
    assert desk.shelf.noted == [2]


def test_an_outage_costs_one_snapshot() -> None:
    desk = Desk()
    desk.shelf.is_away = True
    desk.offer(1)
    desk.stores()
    desk.shelf.is_away = False
    desk.offer(2)
    desk.stores()
    assert desk.shelf.noted == [2]


def test_a_large_one_is_made_as_much_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """A video's frames go with every one."""
    now = time.monotonic()
    monkeypatch.setattr("worker.run.snapshot_slot.time.monotonic", lambda: now)
    desk = Desk(10.0)
    desk.context.snapshots.noted(SavedRun("k", 1, 3 * EASY_BYTES, ""))
    desk.context.snapshots.ended()
    now += 29
    desk.offer(2)
    assert desk.made == []
    now += 2
    desk.offer(3)
    assert desk.made == [3]


def test_a_late_attempt_leaves_nothing_behind_and_stops() -> None:
    desk = Desk()
    desk.shelf.answer = Signal.LOST
    desk.offer(1)
    desk.stores()
    assert desk.shelf.kept == {}
    with pytest.raises(LeaseLost):
        desk.context.check()


def test_a_settled_run_notes_nothing() -> None:
    desk = Desk()
    desk.offer(1)
    desk.context.close()
    desk.stores()
    assert (desk.shelf.noted, desk.shelf.kept) == ([], {})


class TestTheLast:
    """Of a run that goes back to the queue."""

    @pytest.fixture
    def desk(self) -> Desk:
        desk = Desk(3600.0)
        desk.offer(7)
        return desk

    def test_it_is_stored_before_the_job_goes_back(self, desk: Desk) -> None:
        desk.snapshots.thread.start()
        desk.snapshots.before_release(desk.context, Draining("the worker stops"))
        assert desk.shelf.noted == [7]
        desk.snapshots.before_release(desk.context, Draining("the worker stops"))  # the same step again is no news
        assert desk.made == [7]
        desk.snapshots.thread.stop()
        desk.snapshots.thread.join(PATIENCE_S)

    def test_it_is_not_waited_for_for_ever(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("worker.transfer.snapshots.LAST_PATIENCE_S", 0.05)
        desk.snapshots.before_release(desk.context, Yielded("paused"))  # nobody stores it
        desk.context.close()
        desk.stores()
        assert (desk.shelf.noted, desk.shelf.kept) == ([], {})

    def test_none_is_made_for_an_outage(self, desk: Desk) -> None:
        """The run is not stopped but failed: the engine may have let go of what the offer needs."""
        desk.snapshots.before_release(desk.context, ObjectStoreUnavailable("away"))
        assert desk.made == []

    def test_none_is_made_once_the_engine_is_done(self, desk: Desk) -> None:
        desk.context.snapshots.withdraw()
        desk.snapshots.before_release(desk.context, Draining("the worker stops"))
        assert desk.made == []


class TestFetch:
    @staticmethod
    def handed(desk: Desk, body: bytes, sha256: str | None = None) -> JobContext:
        """A run whose claim names a snapshot of that content."""
        saved = SavedRun("k", 3, len(body), sha256 or hashlib.sha256(body).hexdigest())
        return desk.run(saved)

    def test_it_is_handed_on(self) -> None:
        desk = Desk()
        desk.shelf.kept["k"] = b"body"
        assert desk.snapshots.fetch(self.handed(desk, b"body")) == b"body"
        assert desk.snapshots.fetch(desk.run()) is None

    def test_what_is_gone_or_damaged_is_not(self) -> None:
        desk = Desk()
        assert desk.snapshots.fetch(self.handed(desk, b"gone")) is None
        desk.shelf.kept["k"] = b"body"
        assert desk.snapshots.fetch(self.handed(desk, b"other")) is None
