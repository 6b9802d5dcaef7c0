"""The HTTP contract as types: requests are validated with them, answers are documented and (in tests) held to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.kind_name import KindName
from shared.records.job import JobState

__all__ = [
    "ArtifactQuery",
    "Health",
    "Image",
    "Job",
    "JobEnvelope",
    "JobList",
    "JobQuery",
    "ListQuery",
    "ModelList",
    "PoolList",
    "Problem",
    "WorkerList",
]

MAX_WAIT_S = 60
MAX_DEADLINE_S = 7 * 86_400
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, description="RFC 3339, UTC")]
Short = Annotated[str, Field(max_length=256)]


class Input(BaseModel):
    """Base of what callers send: no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Output(BaseModel):
    """Base of what we answer: a test refuses fields that are not documented here."""

    model_config = ConfigDict(extra="forbid")


# --- requests ----------------------------------------------------------------------------------------------------


class JobEnvelope(Input):
    """A job's request without the part that depends on its kind."""

    model_config = ConfigDict(strict=True)

    kind: KindName
    input: dict[str, Any]
    priority: Literal["high", "normal", "low"] = "normal"
    deadline_s: float | None = Field(
        default=None, ge=1, le=MAX_DEADLINE_S, description="seconds from now by which it must have ended"
    )
    metadata: dict[Annotated[str, Field(min_length=1, max_length=256)], Short] = Field(
        default={}, max_length=16, description="yours; echoed, never looked at"
    )


class JobQuery(Input):
    """How to answer for one job."""

    wait: float = Field(
        default=0, ge=0, le=MAX_WAIT_S,
        description="long-poll: answer when the job has ended (with If-None-Match: when it has changed), or after "
        "this many seconds",
    )  # fmt: skip


class ListQuery(Input):
    """Which jobs to list, newest first."""

    state: JobState | None = None
    kind: KindName | None = None
    cursor: str | None = Field(default=None, pattern=r"^[0-9]{1,12}$", description="next_cursor of the page before")
    limit: int = Field(default=50, ge=1, le=200)


class ArtifactQuery(Input):
    """Redirect or bytes."""

    inline: Literal["0", "1"] = Field(default="0", description="1: the bytes themselves instead of a redirect")


# --- answers -----------------------------------------------------------------------------------------------------


class FieldError(Output):
    """One field that was refused."""

    field: str = Field(description="its path, as `input.prompts.0`")
    message: str
    limit: str = Field(description="the bound it broke; may be empty")


class Problem(Output):
    """RFC 9457. `code` is stable; `retryable` says whether the same request may succeed later."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    retryable: bool
    errors: list[FieldError] | None = None


class JobProgress(Output):
    """How far a running job is."""

    fraction: float | None
    stage: str | None
    step: int | None
    total: int | None
    preview_url: str | None


class JobError(Output):
    """Why an attempt ended."""

    code: str
    message: str
    retryable: bool


class JobAttempt(Output):
    """One run of the job on one worker."""

    number: int
    worker: str
    started_at: Time
    ended_at: Time | None
    outcome: str | None = Field(description="succeeded, failed, retried, released, lost, cancelled")
    alone: bool = Field(description="whether its worker ran nothing else: workers had been lost under the job before")
    error: JobError | None


class ResultImage(Output):
    """A stored picture; best first. Fetch `url` with your key: it redirects to a URL that needs none."""

    model_config = ConfigDict(extra="allow")

    name: str
    url: str


class JobResult(Output):
    """What was made. Kinds add fields of their own (rank: scores; classify: labels)."""

    model_config = ConfigDict(extra="allow")

    images: list[ResultImage] = []
    files: list[ResultImage] = []


class JobUrls(Output):
    """Where to go next."""

    self: str
    cancel: str
    pause: str
    resume: str
    retry: str
    events: str


class Job(Output):
    """A job: what was asked for, with every default filled in, and what happened to it."""

    id: str
    kind: KindName
    input: dict[str, Any]
    state: JobState
    priority: Literal["high", "normal", "low"]
    pool: str
    attempt: int
    attempts: list[JobAttempt]
    position: int | None = Field(description="jobs that will start before it; null when not queued, and in lists")
    eta_s: float | None = Field(description="seconds until it should have ended; null when unknown")
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    expires_at: Time | None = Field(description="when the record and its artifacts are deleted")
    deadline_at: Time | None
    due_at: Time | None = Field(description="a retry waits until then")
    cancel_requested: bool
    paused: bool = Field(description="stands still until resumed; while it is still running, stops at its next step")
    progress: JobProgress
    result: JobResult | None
    error: JobError | None
    timings: dict[str, float]
    worker: str | None
    metadata: dict[str, str]
    retry_of: str | None
    urls: JobUrls


class JobList(Output):
    """One page."""

    jobs: list[Job]
    next_cursor: str | None


class Image(Output):
    """An uploaded picture; name it as `id` in job inputs."""

    id: str
    sha256: str
    bytes: int
    width: int
    height: int
    content_type: str
    url: str


class Model(Output):
    """A model that live workers hold."""

    id: str
    family: str | None
    sha256: str | None
    pools: list[str]
    workers: int


class ModelList(Output):
    """Every model some live worker holds."""

    models: list[Model]


class Worker(Output):
    """One live worker."""

    name: str
    pool: str
    kinds: list[str]
    models: list[dict[str, Any]]
    device: str
    slots: int
    busy: int
    state: str
    version: str
    started_at: Time


class WorkerList(Output):
    """Every live worker."""

    workers: list[Worker]


class Pool(Output):
    """Workers that serve the same queue."""

    name: str
    ready_workers: int
    slots: int
    ready_jobs: int
    running_jobs: int
    doorbells: int
    pace_s: dict[str, float] = Field(description="kind -> average run time, seconds")


class PoolList(Output):
    """Every pool that ever held a job or a worker."""

    pools: list[Pool]


class Health(Output):
    """This process."""

    status: Literal["ok"]
    version: str
