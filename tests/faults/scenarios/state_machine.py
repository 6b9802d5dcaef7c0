"""The store's scripts against their model, in random order: the suite's state machine, run for 100,000 steps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.faults.report import Row
from tests.faults.storm import Run

__all__ = ["run"]

ROOT = Path(__file__).parents[3]
TEST = "tests/contract/test_store_machine.py::test_scripts_agree_with_the_model"


def run(run: Run) -> Row:
    """At least 100,000 steps without a counter-example."""
    wanted = run.pick(100_000, 1_000)
    examples = run.pick(2_500, 40)
    env = {**os.environ, "HYPOTHESIS_PROFILE": "long", "HYPOTHESIS_EXAMPLES": str(examples)}
    told = ["-q", "-s", "-p", "no:randomly", "-o", "timeout=3600", f"--hypothesis-seed={run.seed}", TEST]
    # The test's own limit is for the suite's size.
    child = subprocess.run(
        [sys.executable, "-m", "pytest", *told], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    found = re.search(r"state machine: (\d+) steps", child.stdout)
    steps = int(found.group(1)) if found else 0
    row = Row("state_machine", run.seed, 0, 0, 0, extra={"steps": steps, "examples": examples})
    row.expect(child.returncode == 0, f"a counter-example:\n{child.stdout[-3000:]}")
    row.expect(steps >= wanted, f"only {steps} steps")
    return row
