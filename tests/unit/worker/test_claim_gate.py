"""When a worker claims nothing, and where its threads wait meanwhile."""

from __future__ import annotations

import threading

import pytest

from shared.errors import Draining, ObjectStoreUnavailable, StoreUnavailable
from tests.support.polling import PATIENCE_S
from tests.unit.worker.test_run_context import Made
from worker.executor.claim_gate import ClaimGate


class Surroundings:
    """A spool, an object store, and a worker that may be told to stop."""

    def __init__(self) -> None:
        self.is_full = self.is_away = self.is_draining = False
        self.checks = 0
        self.answers: list[bool] = []
        self.looked = threading.Event()  # a thread found it closed, and asked whether to wait
        self.claim_gate = ClaimGate(self, self, self._drains)  # type: ignore[arg-type]

    def _drains(self) -> bool:
        if not self.claim_gate.is_open:
            self.looked.set()
        return self.is_draining

    def check(self) -> None:
        self.checks += 1
        if self.is_away:
            raise ObjectStoreUnavailable("away")

    def waiting(self) -> threading.Thread:
        """A thread that waits to claim."""
        thread = threading.Thread(target=lambda: self.answers.append(self.claim_gate.wait()), daemon=True)
        thread.start()
        return thread


@pytest.fixture
def around() -> Surroundings:
    return Surroundings()


def test_an_open_one_asks_nobody(around: Surroundings) -> None:
    around.claim_gate.look()
    assert around.claim_gate.wait()
    assert around.checks == 0


def test_it_stays_closed_until_the_object_store_answers(around: Surroundings) -> None:
    around.claim_gate.before_release(Made().context, ObjectStoreUnavailable("away"))
    around.is_away = True
    around.claim_gate.look()
    assert not around.claim_gate.is_open
    thread = around.waiting()
    around.is_away = False
    around.claim_gate.look()
    thread.join(PATIENCE_S)
    assert around.answers == [True]
    assert around.checks == 2


def test_other_causes_of_a_release_do_not_close_it(around: Surroundings) -> None:
    for cause in (Draining("x"), StoreUnavailable("away")):
        around.claim_gate.before_release(Made().context, cause)
    assert around.claim_gate.is_open


def test_a_full_spool_parks_the_thread_until_there_is_room(around: Surroundings) -> None:
    around.is_full = True
    thread = around.waiting()
    assert around.looked.wait(PATIENCE_S)
    assert around.answers == []
    around.is_full = False
    thread.join(PATIENCE_S)
    assert around.answers == [True]


def test_who_drains_waits_for_nothing(around: Surroundings) -> None:
    around.claim_gate.pause_until_store_back()
    thread = around.waiting()
    around.is_draining = True
    thread.join(PATIENCE_S)
    assert around.answers == [False]
