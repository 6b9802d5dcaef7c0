"""The verdict: every accepted job read back over HTTP, its artifacts fetched and hashed, its history checked."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.faults import history
from tests.faults.ledger import Entry, Ledger
from tests.faults.observer import Observer

__all__ = ["Ends", "Verdict", "judge", "quantile", "read_jobs"]

NOT_REACHED = {"ConnectError", "ConnectTimeout", "PoolTimeout"}  # what asking meets where nobody listens
FAULTS = ("kill", "stop", "cut")
FINAL = {"succeeded", "failed", "cancelled", "expired"}
READERS = 4

Ends = dict[str, tuple[str, str]]  # job id -> (state or `lost`, error code or why)


@dataclass
class Verdict:
    """What the ledger and the API's answers say. `lost`: job id -> why it counts as lost."""

    accepted: int
    lost: dict[str, str]
    double_commits: set[str]
    failed: dict[str, str]  # job id -> error code; ended, but not well
    unexplained: dict[str, str]  # those of them whose workers were not hit `max_losses` times
    max_losses: int
    recoveries_s: list[float]
    longest_still_s: float
    repeated_runs: int
    repeated_run_s: float
    late_commits: int
    answers: dict[str, int] = field(default_factory=dict)  # how often callers were refused (by status), cut, not let in
    strangers: int = 0  # jobs in the list that no caller was told of

    @property
    def holds(self) -> bool:
        """Nothing lost, nothing twice, nothing made up."""
        return not (self.lost or self.double_commits or self.strangers)


def judge(
    ledger: Ledger,
    http: httpx.Client,
    observer: Observer,
    *,
    within_s: float,
    max_losses: int,
    known: Ends | None = None,
) -> Verdict:
    """Wait until every accepted job has ended, or for `within_s`; then look at all of it but what is `known`."""
    expected = {entry.id: entry for entry in ledger.read("accepted")}
    found = dict(known or {})
    found |= read_jobs(http, [entry for job_id, entry in expected.items() if job_id not in found], within_s)
    listed = set(_listed(http))
    observer.finish()
    return _verdict(ledger.read(), expected, found, listed, max_losses)


def read_jobs(http: httpx.Client, accepted: list[Entry], within_s: float) -> Ends:
    """How each of these ended, its artifacts checked. Those a list shows as ended are not asked for one by one."""
    end = time.monotonic() + within_s
    listed = {job_id: job for job_id, job in _listed(http).items() if job["state"] in FINAL}

    def one(entry: Entry) -> tuple[str, tuple[str, str]]:
        job = listed.get(entry.id)
        return entry.id, _checked(http, entry, job) if job else _read(http, entry, end)

    with ThreadPoolExecutor(READERS) as threads:
        return dict(threads.map(one, accepted))


def _verdict(
    entries: list[Entry], expected: dict[str, Entry], found: Ends, listed: set[str], max_losses: int
) -> Verdict:
    jobs = history.histories(entries)
    repeated, repeated_s = history.repeated_runs(entries)
    faults = [entry for entry in entries if entry.what in FAULTS]
    failed = {job_id: why for job_id, (state, why) in found.items() if state not in ("lost", "succeeded")}
    return Verdict(
        accepted=len(expected),
        lost={job_id: why for job_id, (state, why) in found.items() if state == "lost"},
        double_commits=history.double_commits(entries, jobs),
        failed=failed,
        unexplained={
            job_id: why
            for job_id, why in failed.items()
            if why != "worker_lost" or history.losses(jobs.get(job_id, []), faults) < max_losses
        },
        max_losses=max_losses,
        recoveries_s=history.recoveries_s(jobs, [entry for entry in faults if entry.what != "cut"]),
        longest_still_s=history.longest_still_s(jobs),
        repeated_runs=repeated,
        repeated_run_s=repeated_s,
        late_commits=sum(entry.what == "late" for entry in entries),
        answers=_answers(entries),
        strangers=_strangers(entries, listed - set(expected)),
    )


def _answers(entries: list[Entry]) -> dict[str, int]:
    names = [str(entry.data["status"]) for entry in entries if entry.what == "refused"]
    names += ["not_connected" if e.data["error"] in NOT_REACHED else "cut" for e in entries if e.what == "unanswered"]
    names += ["given_up" for entry in entries if entry.what == "given_up"]
    return dict(Counter(names))


def _strangers(entries: list[Entry], unknown: set[str]) -> int:
    """What was given up may be there nevertheless: under its own id where it was PUT, else under one nobody heard."""
    given_up = [entry for entry in entries if entry.what == "given_up"]
    posted = sum(entry.data["number"] % 2 for entry in given_up)
    return max(0, len(unknown - {entry.id for entry in given_up}) - posted)


def _read(http: httpx.Client, entry: Entry, end: float) -> tuple[str, str]:
    """(state, why): `lost` with the reason, another final state with the error's code, or `succeeded`."""
    while True:
        try:
            answer = http.get(f"/v1/jobs/{entry.id}", params={"wait": 5})
        except httpx.TransportError as error:
            answer = httpx.Response(503, text=type(error).__name__)
        if answer.status_code in (404, 410):
            return "lost", f"answers {answer.status_code}"
        job = answer.json() if answer.status_code == 200 else {}
        if job.get("state") in FINAL:
            return _checked(http, entry, job)
        if time.monotonic() > end:
            return "lost", f"not ended: {job.get('state', answer.status_code)}"


def _checked(http: httpx.Client, entry: Entry, job: dict[str, Any]) -> tuple[str, str]:
    if job["state"] != "succeeded":
        return job["state"], str((job.get("error") or {}).get("code", ""))
    files = [*job["result"]["images"], *job["result"]["files"]]
    if "sha256" in entry.data and entry.data["sha256"] not in [file["sha256"] for file in files]:
        return "lost", "the artifact is not the one that was asked for"
    for file in files:
        body = http.get(f"/v1/jobs/{entry.id}/artifacts/{file['name']}", params={"inline": 1})
        if body.status_code != 200:
            return "lost", f"{file['name']} answers {body.status_code}"
        if hashlib.sha256(body.content).hexdigest() != file["sha256"]:
            return "lost", f"{file['name']} is not what its digest says"
    return "succeeded", ""


def _listed(http: httpx.Client) -> dict[str, dict[str, Any]]:
    """Every job the API lists, by id."""
    found: dict[str, dict[str, Any]] = {}
    cursor = None
    while True:
        page = http.get("/v1/jobs", params={"limit": 200, **({"cursor": cursor} if cursor else {})}).json()
        found |= {job["id"]: job for job in page["jobs"]}
        cursor = page["next_cursor"]
        if not cursor:
            return found


def quantile(values: list[float], share: float) -> float | None:
    """None without values; the value itself where there is but one."""
    if len(values) < 2:
        return round(values[0], 3) if values else None
    return round(statistics.quantiles(values, n=100, method="inclusive")[int(share * 100) - 1], 3)
