"""The ledger's events as each job's history, and what can be read from it: recoveries, standstills, second commits."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

from tests.faults.ledger import Entry

__all__ = ["Event", "double_commits", "histories", "longest_still_s", "losses", "recoveries_s", "repeated_runs"]

CLOSE_S = 0.2  # a fault is noted a moment before it is made; a claim may fall between


@dataclass(frozen=True, order=True)
class Event:
    """`at`: seconds by Redis' clock, which is the host's."""

    at: float
    sequence: int
    type: str
    worker: str = ""


def histories(entries: list[Entry]) -> dict[str, list[Event]]:
    """Job id -> its events in order, each once however often it was seen."""
    seen: dict[str, set[Event]] = defaultdict(set)
    for entry in entries:
        if entry.what == "event":
            ms, _, sequence = entry.data["event"].partition("-")
            event = Event(int(ms) / 1000, int(sequence), entry.data["type"], entry.data.get("worker", ""))
            seen[entry.id].add(event)
    return {job_id: sorted(events) for job_id, events in seen.items()}


def recoveries_s(jobs: dict[str, list[Event]], faults: list[Entry]) -> list[float]:
    """From each fault to the moment each job of that worker was claimed again."""
    found = []
    for fault in faults:
        for events in jobs.values():
            before = [event for event in events if event.at <= fault.at]
            if not before or before[-1].type != "started" or before[-1].worker != fault.data["worker"]:
                continue
            after = events[len(before) :]
            again = next((event for event in after if event.type == "started"), None)
            ended_first = after and after[0].type == "finished"  # its commit was under way
            if again and not ended_first:
                found.append(again.at - fault.at)
    return sorted(found)


def longest_still_s(jobs: dict[str, list[Event]]) -> float:
    """The longest time between two of a job's events: waiting, running or lost."""
    gaps = [after.at - before.at for events in jobs.values() for before, after in pairwise(events)]
    return max(gaps, default=0.0)


def losses(events: list[Event], faults: list[Entry]) -> int:
    """How many of a job's runs met a fault of their worker."""
    runs = [
        (event, after) for event, after in pairwise([*events, Event(float("inf"), 0, "")]) if event.type == "started"
    ]
    return sum(
        any(f.data["worker"] == run.worker and run.at - CLOSE_S <= f.at <= after.at for f in faults)
        for run, after in runs
    )


def double_commits(entries: list[Entry], jobs: dict[str, list[Event]]) -> set[str]:
    """Jobs with two `finished` events, or with two commits that workers were told had landed."""
    twice = {job_id for job_id, events in jobs.items() if sum(event.type == "finished" for event in events) > 1}
    landed: dict[str, set[int]] = defaultdict(set)
    for entry in entries:
        if entry.what == "commit":
            if entry.data["attempt"] in landed[entry.id]:
                twice.add(entry.id)
            landed[entry.id].add(entry.data["attempt"])
    return twice | {job_id for job_id, attempts in landed.items() if len(attempts) > 1}


def repeated_runs(entries: list[Entry]) -> tuple[int, float]:
    """(completed engine runs beyond each job's first, their seconds)."""
    ran = [entry for entry in entries if entry.what == "ran"]
    first: set[str] = set()
    count, seconds = 0, 0.0
    for entry in ran:
        if entry.id in first:
            count += 1
            seconds += entry.data["took_s"]
        first.add(entry.id)
    return count, seconds
