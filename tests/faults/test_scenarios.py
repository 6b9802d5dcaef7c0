"""The short run of the scenarios that fit a suite; `make faults` runs all of them, and long."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

import pytest

from tests.faults.report import RESULTS
from tests.faults.scenarios import ISOLATED, NAMES, Unavailable, play
from tests.faults.table import section

SUITE = (
    "worker_kill", "redis_kill", "api_kill", "worker_stop", "store_errors", "failpoints", "redis_full",
    "network_one_way", "poison", "drain", "version_skew",
)  # fmt: skip
README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("name", SUITE)
def test_nothing_is_lost_and_nothing_done_twice(name: str) -> None:
    seed = secrets.randbelow(2**31)
    try:
        row = play(name, seed, short=True)
    except Unavailable as missing:  # what makes namespaces is the machine's, the rest is a checkout's
        if os.environ.get("CI") and not name.startswith(ISOLATED):
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    assert not row["broken"], f"seed {seed}: {row}"
    assert row["accepted"] > 0


def published() -> list[dict[str, object]]:
    """The rows README must state."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def test_readme_states_what_was_measured() -> None:
    assert section(published()) in README.read_text()


def test_every_published_run_was_long_and_held() -> None:
    rows = published()
    assert {row["name"] for row in rows} <= set(NAMES)
    assert not [row["name"] for row in rows if row["short"] or row["broken"]]
