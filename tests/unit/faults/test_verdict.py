"""The verdict on faults: what excuses a failed job, what counts as a cut request, and what a stranger is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.history import Event, losses
from tests.faults.ledger import Entry
from tests.faults.verdict import FAULTS, _verdict

HISTORY = [(1, "queued", ""), (2, "started", "a"), (5, "queued", ""), (6, "started", "b"), (9, "queued", ""),
           (10, "started", "c"), (13, "finished", "")]  # fmt: skip


def entry(what: str, at: float, **data: Any) -> Entry:
    return Entry(what, at, data)


def told(faults: list[Entry], code: str, max_losses: int = 3) -> dict[str, str]:
    """Which failures remain unexplained, of one job that ran on three workers."""
    events = [entry("event", at, id="j", event=f"{at}000-0", type=what, worker=who) for at, what, who in HISTORY]
    accepted = {"j": entry("accepted", 1, id="j")}
    return _verdict([*events, *faults], accepted, {"j": ("failed", code)}, {"j"}, max_losses).unexplained


@pytest.mark.parametrize("what", FAULTS)
def test_three_workers_hit_excuse_a_lost_job(what: str) -> None:
    faults = [entry(what, at, worker=who) for at, who in ((2.5, "a"), (6.5, "b"), (10.5, "c"))]
    assert told(faults, "worker_lost") == {}
    assert told(faults[:2], "worker_lost") == {"j": "worker_lost"}
    assert told(faults, "probe_failed") == {"j": "probe_failed"}


def test_a_fault_of_another_worker_or_time_is_no_loss() -> None:
    events = [Event(at, 0, what, who) for at, what, who in HISTORY]
    assert losses(events, [entry("kill", 2.5, worker="b"), entry("kill", 7.0, worker="a")]) == 0
    assert losses(events, [entry("kill", 2.5, worker="a"), entry("stop", 2.6, worker="a")]) == 1


def test_a_request_is_cut_or_not_let_in() -> None:
    errors = ("ConnectError", "ReadError", "RemoteProtocolError", "ReadTimeout", "ConnectError")
    entries = [entry("unanswered", 1, number=1, error=error) for error in errors]
    entries.append(entry("refused", 1, number=1, status=503))
    assert _verdict(entries, {}, {}, set(), 3).answers == {"503": 1, "cut": 3, "not_connected": 2}


def test_only_what_was_given_up_may_be_there_unknown() -> None:
    put, posted = entry("given_up", 1, id="p", number=2), entry("given_up", 1, id="k", number=3)
    assert _verdict([put], {}, {}, {"p"}, 3).strangers == 0
    assert _verdict([put], {}, {}, {"p", "x"}, 3).strangers == 1
    assert _verdict([posted], {}, {}, {"x", "y"}, 3).strangers == 1
