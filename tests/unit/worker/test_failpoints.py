"""Fail-points: which there are, and that they cost nothing and do nothing unless told."""

from __future__ import annotations

import os
import signal

import pytest

from shared.settings import Settings
from worker.run.failpoints import POINTS, FailPoints


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


@pytest.mark.parametrize("told", ["nowhere", "after_claim:0", "after_claim:x", "after_claim:1:1"])
def test_a_point_that_does_not_exist_is_refused(told: str) -> None:
    with pytest.raises(ValueError, match="fail-point"):
        FailPoints(told)


def test_no_setting_of_a_worker_arms_one() -> None:
    assert not [name for name in Settings.model_fields if "fail" in name and "point" in name]
