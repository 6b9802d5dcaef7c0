"""`make bench [ONLY=name]`: run the suites whose name matches, print every measure, keep them in out/bench.jsonl.

The last line printed is one JSON object: name -> value of this run. Exits 1 when a measure misses its target.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys

from tests.benchmarks.report import Report

SUITES = {
    "queue": "tests.benchmarks.queue_overhead",
    "memory": "tests.benchmarks.queue_memory",
    "models": "tests.benchmarks.models",
    "engines": "tests.benchmarks.engines",
    "training": "tests.benchmarks.training",
    "search_index": "tests.benchmarks.search_index",
    "search_http": "tests.benchmarks.search_http",
    "house": "tests.benchmarks.house",
}


def main() -> int:
    """Run the chosen suites one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--only", default="", help=f"pattern over {', '.join(SUITES)}")
    only = parser.parse_args().only
    chosen = [name for name in SUITES if re.search(only, name)]
    if not chosen:
        parser.error(f"no suite matches {only!r}; there are {', '.join(SUITES)}")
    report = Report()
    for name in chosen:
        print(f"== {name}")
        importlib.import_module(SUITES[name]).run(report)
    print(json.dumps(report.values))
    return 0 if report.all_hold else 1


sys.exit(main())
