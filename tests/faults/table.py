"""README's section on faults, from the published rows; `python -m tests.faults --table` writes it between markers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.report import RESULTS

__all__ = ["section", "write"]

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- faults: begin, written by `python -m tests.faults --table` -->", "<!-- faults: end -->"
COLUMNS = (
    "scenario",
    "fault",
    "accepted",
    "lost",
    "double commits",
    "failed",
    "recovery p50 / p99",
    "longest still",
    "commit",
)

Line = dict[str, Any]

FAULTS: dict[str, Callable[[Line], str]] = {
    "worker_kill": lambda r: f"{r['kills']} kill -9 of busy workers, 4 workers, 10 jobs/s",
    "redis_kill": lambda r: f"{r['kills']} kill -9 of Redis, away 0.2 to 12 s; recovery: its return to the first claim",
    "api_kill": lambda r: f"{r['kills']} kill -9 of the API in mid-submit{_cut(r)}",
    "worker_stop": lambda r: (
        f"{r['stops']} SIGSTOP past the lease; {r['late_commits']} late commits, all refused, "
        f"{r['fenced']} late writes counted"
    ),
    "store_errors": lambda r: (
        f"{r['seconds'] // 60} min of store errors (30 % 5xx, 5 % resets, spoilt, slow, silent); "
        f"device work repeated: {r['device_runs_repeated']}"
    ),
    "plain_celery": lambda r: (
        f"plain Celery {r['context']['versions']['celery']}, late acks, visibility timeout "
        f"{r['visibility_timeout_s']} s: the load and {r['kills']} kills of `worker_kill`"
    ),
    "failpoints": lambda r: f"{sum(r['hit'].values())} kill -9 after claim, before upload, before commit, after commit",
    "reaper_kill": lambda r: f"{r['kills']} kills in pairs, the second while the first one's jobs are returned",
    "redis_stop": lambda r: (
        f"Redis frozen {r['times']} times for {r['seconds']} s; slowest answer to a caller "
        f"{r['slowest_answer_s']:.1f} s"
    ),
    "redis_full": lambda r: (
        f"Redis full {r['times']} times: {r['answers'].get('503', 0)} submits refused with 503, "
        f"half-written records: {r['half_written']}"
    ),
    "aof_truncated": lambda r: f"{r['kills']} kill -9 of Redis that tear its last write",
    "spool_full": lambda r: (
        f"{r['outages']} outages of the store that fill the spool's disk; "
        f"device work repeated: {r['device_runs_repeated']}"
    ),
    "network_cut": lambda r: (
        f"{r['cuts']} cuts of one worker's network past the lease; {r['fenced']} late writes refused"
    ),
    "network_loss": lambda r: (
        f"30 % of packets lost, then 2 s delay, then 10 KB/s ({r['packets_dropped']} packets lost)"
    ),
    "network_one_way": lambda r: (
        f"packets of one direction dropped {r['times']} times; {r['fenced']} late writes refused"
    ),
    "clock_skew": lambda r: f"host clocks 10 min fast and slow, {r['kills']} kills",
    "poison": lambda r: (
        f"{r['poisons']} jobs that segfault their worker, among good ones: failed after "
        f"{max(r['runs_of_poison'])} runs, good ones all done"
    ),
    "drain": lambda r: (
        f"{r['restarts']} rolling restarts, grace {r['grace_s']} s: {r['given_back']} jobs given back, none blamed, "
        f"{r['device_s_repeated']:.1f} s repeated"
    ),
    "version_skew": lambda r: (
        f"workers of commit {r['previous']}, then of a version to come, beside today's, {r['kills']} kills"
    ),
    "pictures": lambda r: (
        f"{r['kills']} kills under real `vqgan_clip` and `dalle` jobs: {r['same_pictures']} of {r['jobs']} same bytes "
        "as undisturbed"
    ),
    "state_machine": lambda r: f"the store's scripts against their model: {r['steps']:,} random steps",
    "soak": lambda r: f"{r['minutes']:.0f} min, a kill a minute; {_slopes(r)}",
}

HEAD = """\
`make faults [ONLY=name]`: callers give probe jobs over HTTP while something breaks. A ledger outside Redis notes every
accepted job; each is then read back over HTTP, its artifacts fetched and hashed. Lost: accepted, and not ended, not
readable, or its bytes not those asked for. Failed: its caller was told `worker_lost`, after faults hit as many of its
workers as `max_losses` says (3, the default); a job that fails in any other way breaks the run. Leases last 3 s here
(15 s by default), beats 1 s. Seed, versions and machine of each row: `tests/faults/results.jsonl`."""

TAIL = """\
Recovery is the time from the fault to the next claim of the same job. Longest still is the longest time in which
nothing happened to some job: what it needs is away, or it waits in line, or, after losing two workers, for one that
runs nothing else. `pictures` has `max_losses` 10: its kills hit the same six jobs again and again. Network faults are
real lost packets, between two network namespaces. Plain Celery is given a restore sweep every 2 s instead of its
100 s."""

OLDER = "† An older run, with `max_losses` raised to 10 in most scenarios."


def section(rows: list[Line]) -> str:
    """What README says between the markers, markers included."""
    by_name = {row["name"]: row for row in rows}
    table = [" | ".join(("", *COLUMNS, "")).strip(), "|" + "---|" * len(COLUMNS)]
    table += [_line(by_name[name], fault(by_name[name])) for name, fault in FAULTS.items() if name in by_name]
    notes = ["", OLDER] if any("failed" in row and "max_losses" not in row for row in rows) else []
    return "\n".join([BEGIN, "", HEAD, "", *table, "", TAIL, *notes, "", END])


def write() -> None:
    """Replace what README has between the markers."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    README.write_text(before + section(rows) + rest.partition(END)[2])


def _line(row: Line, fault: str) -> str:
    recovery = "-" if row["recovery_p50_s"] is None else f"{row['recovery_p50_s']:.1f} / {row['recovery_p99_s']:.1f} s"
    still = f"{row['longest_still_s']:.0f} s" if "longest_still_s" in row else "-"
    cells = [
        f"`{row['name']}`",
        fault,
        f"{row['accepted']:,}",
        row["lost"],
        row["double_commits"],
        row.get("failed", "-"),
    ]
    return " | ".join(str(cell) for cell in ("", *cells, recovery, still, row["context"]["commit"], "")).strip()


def _cut(row: Line) -> str:
    answers = row["answers"]
    if "cut" not in answers:
        return ""
    return f": {answers['cut']:,} requests cut, {answers.get('not_connected', 0):,} tries not let in"


def _slopes(row: Line) -> str:
    slopes, levels = row["slopes_per_h"], row["levels"]
    shown = {"API": "api_mb", "worker": "worker1_mb", "Redis' data": "redis_data_mb"}
    told = [f"{what} {slopes[name]:+.1f} MB/h at {levels[name]:.0f} MB" for what, name in shown.items()]
    return ", ".join([*told, f"keys {slopes['redis_keys']:+.0f}/h at {levels['redis_keys']:,.0f}"])
