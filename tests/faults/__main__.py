"""`make faults [ONLY=pattern]`: run the scenarios whose name matches, one after the other; rows in out/faults.jsonl.

`--short`: as the test suite runs them. `--publish`: rows of long runs that held become the ones README states, and its
table is written; `--table` only writes it. Ctrl-C ends all children. The last line printed is one JSON object: name ->
row of this run. Exits 1 when something did not hold.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import sys

from deploy.local.processes import ProcessFailed
from tests.faults import table
from tests.faults.report import keep, publish
from tests.faults.scenarios import NAMES, Unavailable, play


def main() -> int:
    """Run the chosen scenarios."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--only", default="", help=f"pattern over {', '.join(NAMES)}")
    parser.add_argument("--short", action="store_true", help="the suite's size")
    parser.add_argument("--seed", type=int, default=None, help="repeat a run's choices (timing still differs)")
    parser.add_argument("--publish", action="store_true", help="keep the rows in tests/faults/results.jsonl")
    parser.add_argument("--minutes", type=int, default=30, help="how long the soak lasts")
    parser.add_argument(
        "--table", action="store_true", help="write README's table from the published rows, run nothing"
    )
    told = parser.parse_args()
    if told.table:
        table.write()
        return 0
    chosen = [name for name in NAMES if re.search(told.only, name)]
    if not chosen:
        parser.error(f"no scenario matches {told.only!r}; there are {', '.join(NAMES)}")
    seed = secrets.randbelow(2**31) if told.seed is None else told.seed
    rows = {}
    for name in chosen:
        print(f"== {name} seed {seed}", flush=True)
        try:
            rows[name] = play(name, seed, short=told.short, minutes=told.minutes)
        except Unavailable as error:
            print(f"{name}: not on this machine: {error}", flush=True)
            continue
        except (AssertionError, ProcessFailed) as error:
            print(f"{name}: BROKEN {error}", flush=True)
            rows[name] = {"name": name, "seed": seed, "broken": [str(error)]}
            continue
        keep(rows[name])
        if told.publish and not told.short and not rows[name]["broken"]:
            publish(rows[name])
            table.write()
    print(json.dumps(rows))
    return 1 if any(row["broken"] for row in rows.values()) else 0


sys.exit(main())
