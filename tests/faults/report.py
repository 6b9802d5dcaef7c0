"""One run, one row: in out/faults.jsonl for tools (form: DESIGN section 8), on the screen for people."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.report import context
from tests.faults.verdict import Verdict, quantile

__all__ = ["RESULTS", "Row", "keep", "publish"]

PATH = Path("out/faults.jsonl")
RESULTS = Path(__file__).parent / "results.jsonl"  # the last long run of each scenario; README states these


@dataclass
class Row:
    """A scenario's outcome. `broken`: what did not hold, in words; empty when all did."""

    name: str
    seed: int
    accepted: int
    lost: int
    double_commits: int
    recovery_p50_s: float | None = None
    recovery_p99_s: float | None = None
    broken: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, seed: int, verdict: Verdict, *, doomed: Collection[str] = (), **extra: Any) -> Row:
        """From a verdict; what must always hold is checked here, a scenario's own targets by `expect`. A job may fail
        only as worker_lost and after `max_losses` faults of its workers, or as one of the `doomed`."""
        row = cls(
            name,
            seed,
            verdict.accepted,
            len(verdict.lost),
            len(verdict.double_commits),
            quantile(verdict.recoveries_s, 0.5),
            quantile(verdict.recoveries_s, 0.99),
            extra={
                "max_losses": verdict.max_losses,
                "failed": len(verdict.failed),
                "recoveries": len(verdict.recoveries_s),
                "longest_still_s": round(verdict.longest_still_s, 2),
                "device_runs_repeated": verdict.repeated_runs,
                "late_commits": verdict.late_commits,
                "answers": verdict.answers,
                **extra,
            },
        )
        row.expect(not verdict.lost, f"lost: {_some(verdict.lost)}")
        row.expect(not verdict.double_commits, f"committed twice: {sorted(verdict.double_commits)[:5]}")
        unexplained = {job_id: why for job_id, why in verdict.unexplained.items() if job_id not in doomed}
        row.expect(not unexplained, f"good jobs failed: {_some(unexplained)}")
        row.expect(not verdict.strangers, f"{verdict.strangers} jobs that no caller was told of")
        return row

    def expect(self, holds: bool, what: str) -> None:
        """Note `what` as broken unless it holds."""
        if not holds:
            self.broken.append(what)

    def expect_recovered(self, within_s: float, *, short: bool) -> None:
        """Jobs went on after the faults; a long run judges how soon, too: the suite's machine may be slow."""
        self.expect(self.recovery_p99_s is not None, "the faults hit no job that went on")
        p99_s = self.recovery_p99_s or 0.0
        self.expect(short or p99_s <= within_s, f"recovery p99 {p99_s} s > {within_s:g} s")

    def line(self, took_s: float, short: bool) -> dict[str, Any]:
        """The row as it is kept."""
        data = asdict(self)
        extra = data.pop("extra")
        when = time.strftime("%Y-%m-%d", time.gmtime())
        return {
            **data, **extra, "short": short, "took_s": round(took_s, 1), "context": {**context(), "date": when},
        }  # fmt: skip


def _some(lost: dict[str, str]) -> str:
    reasons = [f"{job_id}: {why}" for job_id, why in list(lost.items())[:5]]
    return f"{len(lost)}, {'; '.join(reasons)}"


def keep(line: dict[str, Any]) -> None:
    """Append to out/faults.jsonl and print."""
    PATH.parent.mkdir(exist_ok=True)
    with PATH.open("a") as file:
        file.write(json.dumps(line) + "\n")
    shown = {name: value for name, value in line.items() if name not in ("context", "name", "broken")}
    print(
        f"{line['name']}: {'BROKEN ' + '; '.join(line['broken']) if line['broken'] else 'holds'}  {shown}", flush=True
    )


def publish(line: dict[str, Any]) -> None:
    """Make it the row that README states for its scenario."""
    rows = [json.loads(text) for text in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    rows = [row for row in rows if row["name"] != line["name"]] + [line]
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in sorted(rows, key=lambda row: str(row["name"]))))
