"""The store's scripts against their model, in random order: the suite's state machine, run for 100,000 steps.

In shards, each a process with a seed of its own that follows from the run's: Hypothesis keeps all examples of a run in
memory and looks through them, so that short runs are faster, and each says how far it came.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.faults.report import Row
from tests.faults.storm import Run

__all__ = ["run"]

ROOT = Path(__file__).parents[3]
TEST = "tests/contract/test_store_machine.py::test_scripts_agree_with_the_model"


def run(run: Run) -> Row:
    """At least 100,000 steps without a counter-example."""
    wanted, examples = run.pick(100_000, 1_000), run.pick(400, 40)
    row = Row("state_machine", run.seed, 0, 0, 0)
    started_at = time.monotonic()
    steps = shards = 0
    while steps < wanted and not row.broken:
        made, words = _shard(f"{(run.seed + shards * 1_000_003) % 2**31}", examples)
        row.expect(made > 0, f"shard {shards}, a counter-example:\n{words[-3000:]}")
        steps, shards = steps + made, shards + 1
        rate = steps / (time.monotonic() - started_at)
        print(f"state_machine: {steps:,} of {wanted:,} steps, {rate:.0f} a second", flush=True)
    row.extra |= {"steps": steps, "shards": shards, "examples": shards * examples}
    return row


def _shard(seed: str, examples: int) -> tuple[int, str]:
    """(steps, words of the run); no steps where it failed."""
    env = {**os.environ, "HYPOTHESIS_PROFILE": "long", "HYPOTHESIS_EXAMPLES": str(examples)}
    # The test's own time limit is for the suite's size.
    told = ["-q", "-s", "-p", "no:randomly", "-o", "timeout=3600", f"--hypothesis-seed={seed}", TEST]
    child = subprocess.run(
        [sys.executable, "-m", "pytest", *told], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    found = re.search(r"state machine: (\d+) steps", child.stdout)
    return int(found.group(1)) if found and child.returncode == 0 else 0, child.stdout
