"""A job: a spec plus what happened to it. Pure: no Redis, no clock.

    submit ─> queued ─claim─> running ─commit─> succeeded
                │  ^             ├──── fail, final ──> failed
                │  │             ├──── fail, retryable ─> queued (not before due_at)
                │  │             ├──── release (drain, pause, called away) ─> queued, no penalty
                │  └──lease lost─┼──── lease lost while it ran alone ──> failed
                │                └──── cancel seen ──> cancelled
                ├─cancel─> cancelled
                └─deadline passed─> expired

A queued job waits in one of four places: its tenant's line, `delayed` before a retry, `held` while its caller pauses
it, `suspects` once so many workers died under it that it may only run alone.

Only the Lua scripts in shared/store/scripts move a job; TRANSITIONS states what they may do, and a test holds both
together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from shared.errors import UnreadableRecord
from shared.records.reading import FieldReader, record_from_json

__all__ = [
    "FINAL",
    "PRIORITIES",
    "TRANSITIONS",
    "Attempt",
    "Claim",
    "JobRecord",
    "JobState",
    "NewJob",
    "SavedRun",
    "saved_run",
]


class JobState(StrEnum):
    """Where a job is. Adjectives; final ones never change again."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    UNKNOWN = "unknown"  # read, never written: a state that only a newer version has


_STATES = frozenset(state.value for state in JobState)
FINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.EXPIRED}),
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
    **{state: frozenset() for state in (*FINAL, JobState.UNKNOWN)},
}

# Milliseconds by which a job is treated as older (or younger) than it is: a low job that has waited 20 minutes
# longer than a high one goes first, so nothing starves.
PRIORITIES: dict[str, int] = {"high": -600_000, "normal": 0, "low": 600_000}


@dataclass(frozen=True)
class NewJob:
    """What the door hands to the store; everything else about a job the store decides."""

    id: str  # a UUID, the caller's or ours
    tenant: str
    kind: str
    pool: str
    spec: dict[str, Any]  # the spec's JSON form, seed resolved
    priority: str = "normal"
    deadline_s: float | None = None  # seconds after acceptance by which it must have ended
    metadata: dict[str, str] = field(default_factory=dict)
    retry_of: str | None = None
    idempotency_key: str | None = None
    fingerprint: str = ""  # sha256 of the request body: same key and same fingerprint is the same job
    result_ttl_s: float | None = None  # how long its record outlives its end; as in the settings if left out
    request_id: str = ""  # of the HTTP request that brought it, for logs; a follow-up has that of the job before it


@dataclass(frozen=True)
class Attempt:
    """One claim of one job. `number` is the fencing token that every later write must carry."""

    number: int
    worker: str
    started_at_ms: int
    ended_at_ms: int | None = None
    outcome: str | None = None  # succeeded, failed, retried, released, lost, cancelled
    error: dict[str, Any] | None = None
    alone: bool = False  # whether its worker ran nothing else, since workers had died under the job before


@dataclass(frozen=True)
class SavedRun:
    """A snapshot in the object store, as the record notes it."""

    key: str
    step: int  # how far the run was
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Claim:
    """What a worker gets when it asks for work."""

    tenant: str
    id: str
    kind: str
    attempt: int
    spec: dict[str, Any]
    created_at_ms: int
    queued_at_ms: int  # when it last became ready
    deadline_at_ms: int | None
    failures: int  # attempts of this job that ended in a retryable error so far
    claimed_at_ms: int = 0  # the claim's own time, so that waits and deadlines need no host clock
    snapshot: SavedRun | None = None  # what an earlier attempt saved last
    alone: bool = False  # workers died under it: this one takes nothing else while it runs
    last_error_code: str = ""  # of the last attempt that ended in a retryable error
    request_id: str = ""  # of the HTTP request that brought the job; empty where it came from elsewhere


@dataclass(frozen=True)
class JobRecord:
    """A job as stored. Times are milliseconds since the epoch by Redis' clock."""

    id: str
    tenant: str
    kind: str
    pool: str
    spec: dict[str, Any]
    state: JobState
    priority: str
    attempt: int  # grows by one with each claim, never falls
    failures: int  # retryable errors so far; capped by settings.max_failures
    losses: int  # leases that ran out under it; the last of settings.max_losses counts only when it ran alone
    created_at_ms: int
    queued_at_ms: int  # moves when the job comes back to the queue
    started_at_ms: int | None = None  # first claim
    finished_at_ms: int | None = None  # set exactly when the state is final
    expires_at_ms: int | None = None  # when record and artifacts go; set with finished_at
    deadline_at_ms: int | None = None
    due_at_ms: int | None = None  # a retry waits until then
    cancel_requested: bool = False
    paused: bool = False  # its caller wants it to stand still: held when queued, about to be given back when running
    worker: str | None = None
    progress: dict[str, Any] = field(default_factory=dict)  # fraction, stage, step, total, preview
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None  # the last one; attempts keeps them all
    timings: dict[str, float] = field(default_factory=dict)  # seconds per stage
    attempts: tuple[Attempt, ...] = ()
    snapshot: SavedRun | None = None  # what an unfinished run saved last; None again when the job has ended
    metadata: dict[str, str] = field(default_factory=dict)
    retry_of: str | None = None
    request_id: str = ""  # of the HTTP request that brought it; empty where it came from elsewhere
    unreadable: tuple[str, ...] = ()  # fields that this version can make no sense of

    @property
    def is_final(self) -> bool:
        """Whether nothing about the job will change again."""
        return self.state in FINAL or (self.state is JobState.UNKNOWN and self.finished_at_ms is not None)

    def artifact(self, name: str) -> dict[str, Any] | None:
        """The picture or file of that name in the result: name, key, bytes, sha256, ..."""
        items = (*self.made("images"), *self.made("files"))
        return next((item for item in items if item["name"] == name), None)

    def picture(self, name: str) -> dict[str, Any] | None:
        """The same, of pictures only: what another job may name as its input."""
        return next((item for item in self.made("images") if item["name"] == name), None)

    def made(self, what: str) -> list[dict[str, Any]]:
        """The `images` or the `files` of the result, as far as they have names."""
        found = (self.result or {}).get(what)
        items = found if isinstance(found, list) else []
        return [item for item in items if isinstance(item, dict) and isinstance(item.get("name"), str)]

    @classmethod
    def from_hash(cls, raw: Mapping[str, str]) -> JobRecord:
        """Read the Redis hash `dq:job:{tenant}:{id}`. Never raises: what makes no sense is named in `unreadable`, and
        where the job has no error of its own, as its error."""
        read = FieldReader(raw)
        record = cls(
            id=read.required("id"),
            tenant=read.required("tenant"),
            kind=read.required("kind"),
            pool=read.required("pool"),
            spec=read.json("spec", dict, {}),
            state=_state(read.required("state")),
            priority=read.text("priority", "normal"),
            attempt=read.integer("attempt"),
            failures=read.integer("failures"),
            losses=read.integer("losses"),
            created_at_ms=read.integer("created_at"),
            queued_at_ms=read.integer("queued_at"),
            started_at_ms=read.optional_integer("started_at"),
            finished_at_ms=read.optional_integer("finished_at"),
            expires_at_ms=read.optional_integer("expires_at"),
            deadline_at_ms=read.optional_integer("deadline_at"),
            due_at_ms=read.optional_integer("due_at"),
            cancel_requested=raw.get("cancel") == "1",
            paused=raw.get("paused") == "1",
            worker=raw.get("worker") or None,
            progress=read.json("progress", dict, {}),
            result=read.optional_json("result", dict),
            error=read.optional_json("error", dict),
            timings=read.json("timings", dict, {}),
            attempts=_attempts(read),
            snapshot=saved_run(read.text("snapshot")),
            metadata=read.json("metadata", dict, {}),
            retry_of=raw.get("retry_of") or None,
            request_id=read.text("request_id"),
        )
        if not read.unreadable:
            return record
        error = UnreadableRecord(f"this job's record cannot be read: {', '.join(read.unreadable)}")
        return replace(record, unreadable=tuple(read.unreadable), error=record.error or error.to_json())


def saved_run(text: str) -> SavedRun | None:
    """The note of a snapshot; None where there is none to go on from."""
    try:
        return record_from_json(SavedRun, text) if text else None
    except UnreadableRecord:
        return None


def _state(text: str) -> JobState:
    return JobState(text) if text in _STATES else JobState.UNKNOWN


def _attempts(read: FieldReader) -> tuple[Attempt, ...]:
    items = read.json("attempts", list, [])
    return tuple(_attempt(number, item) for number, item in enumerate(items, 1) if isinstance(item, dict))


def _attempt(number: int, item: dict[str, Any]) -> Attempt:
    error = item.get("error")
    return Attempt(
        number=_integer(item.get("number")) or number,
        worker=str(item.get("worker") or ""),
        started_at_ms=_integer(item.get("started_at")) or 0,
        ended_at_ms=_integer(item.get("ended_at")),
        outcome=item.get("outcome"),
        error=error if isinstance(error, dict) else None,
        alone=bool(item.get("alone")),
    )


def _integer(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) else None
