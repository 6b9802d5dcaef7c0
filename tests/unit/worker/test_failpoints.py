"""Fail-points: which there are, and that they cost nothing and do nothing unless told."""

from __future__ import annotations

import os
import signal

import pytest

from shared.settings import Settings
from tests.unit.worker.test_run_context import Made
from worker.run.failpoints import AFTER_CLAIM, AFTER_COMMIT, AFTER_UPLOAD, BEFORE_UPLOAD, POINTS, FailPoints
from worker.run.hooks import Ended


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr("worker.run.failpoints.os.kill", lambda pid, number: killed.append((pid, number)))
    return killed


def test_nothing_happens_unless_told(killed: list[tuple[int, int]]) -> None:
    for point in POINTS:
        FailPoints("").passing(point)
    assert not killed


@pytest.mark.parametrize("point", POINTS)
def test_it_dies_at_the_pass_it_is_told(point: str, killed: list[tuple[int, int]]) -> None:
    points = FailPoints(f"{point}:3")
    for other in set(POINTS) - {point}:
        points.passing(other)
    points.passing(point)
    points.passing(point)
    assert not killed
    points.passing(point)
    assert killed == [(os.getpid(), signal.SIGKILL)]


def test_they_lie_where_their_names_say(killed: list[tuple[int, int]]) -> None:
    context = Made().context
    events = [
        (AFTER_CLAIM, lambda points: points.before_run(context)),
        (BEFORE_UPLOAD, lambda points: points.before_store(context)),
        (AFTER_UPLOAD, lambda points: points.after_store(context)),
        (AFTER_COMMIT, lambda points: points.after_run(context, Ended("succeeded", {}))),
    ]
    for point, _ in events:
        for _, happens in events:
            happens(FailPoints(point))
    assert len(killed) == len(events)


@pytest.mark.parametrize("outcome", ["failed", "queued", "lost", "unsettled"])
def test_a_run_that_ended_otherwise_committed_nothing(outcome: str, killed: list[tuple[int, int]]) -> None:
    FailPoints(AFTER_COMMIT).after_run(Made().context, Ended(outcome, {}))
    assert not killed


@pytest.mark.parametrize("told", ["nowhere", "after_claim:0", "after_claim:x", "after_claim:1:1"])
def test_a_point_that_does_not_exist_is_refused(told: str) -> None:
    with pytest.raises(ValueError, match="fail-point"):
        FailPoints(told)


def test_no_setting_of_a_worker_arms_one() -> None:
    assert not [name for name in Settings.model_fields if "fail" in name and "point" in name]
