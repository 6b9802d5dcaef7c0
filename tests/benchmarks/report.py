"""One measure, one line: on the screen for people, in out/bench.jsonl for tools (form: DESIGN section 8)."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import operator
import platform
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["Report", "context"]

PATH = Path("out/bench.jsonl")


class Report:
    """Collects the measures of one run."""

    def __init__(self) -> None:
        self.values: dict[str, float | None] = {}  # None: could not be taken
        self.all_hold = True
        PATH.parent.mkdir(exist_ok=True)

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        peer: str = "",
    ) -> None:
        """Record one measure. Without a bound it is a comparison and always holds."""
        bound = at_least if at_least is not None else at_most
        holds = bound is None or (operator.ge if at_least is not None else operator.le)(value, bound)
        target = _target(at_least, at_most)
        print(f"{name:34} {value:12.3f} {unit:10} {target:10} {'ok' if holds else 'MISSED'}  {peer}", flush=True)
        self.values[name] = round(value, 4)
        self._keep(name, round(value, 6), unit, target, holds, peer=peer)

    def miss(
        self, name: str, unit: str, reason: str, *, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        """Record that a measure could not be taken: its value is null and it does not hold."""
        target = _target(at_least, at_most)
        print(f"{name:34} {'-':>12} {unit:10} {target:10} NOT MEASURED: {reason}", flush=True)
        self.values[name] = None
        self._keep(name, None, unit, target, False, peer="", reason=reason)

    def _keep(self, name: str, value: float | None, unit: str, target: str, holds: bool, **more: str) -> None:
        self.all_hold &= holds
        line = {"name": name, "value": value, "unit": unit, "target": target, "holds": holds} | more
        with PATH.open("a") as file:
            file.write(json.dumps(line | {"context": context()}) + "\n")


def _target(at_least: float | None, at_most: float | None) -> str:
    bound, sign = (at_least, ">=") if at_least is not None else (at_most, "<=")
    return f"{sign} {bound:g}" if bound is not None else ""


@functools.cache
def context() -> dict[str, Any]:
    """Where and of what a measure was taken."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    versions = {name: importlib.metadata.version(name) for name in ("celery", "redis", "flask", "torch")}
    return {"commit": commit.stdout.strip(), "cpu": cpu, "device": "cpu", "versions": versions}
