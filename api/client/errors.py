"""What the client raises, one class per thing a caller may want to tell apart.

ClientError
├── Unreachable        no answer from the server (refused, timed out, cut off)
├── WaitTimeout        the job has not ended within the time given
├── JobFailed          the job behind a question ended without an answer
└── ApiError           the server answered with a problem document
    ├── InvalidRequest     400 413 415 422   a field or the body is wrong
    ├── NotAllowed         401 403           no valid key, or one without the scope
    ├── Missing            404               no such job or picture of yours
    ├── Gone               410               it was there; its retention is over
    ├── Conflicting        409               other content under the same id, or the job's state forbids it
    └── Busy               429 503           come back later; the client already has, several times
"""

from __future__ import annotations

from typing import Any

from api.client.job import Job

__all__ = [
    "ApiError",
    "Busy",
    "ClientError",
    "Conflicting",
    "Gone",
    "InvalidRequest",
    "JobFailed",
    "Missing",
    "NotAllowed",
    "Unreachable",
    "WaitTimeout",
    "api_error",
]


class ClientError(Exception):
    """Root of all that the client raises on purpose."""


class Unreachable(ClientError):
    """No answer from the server."""


class WaitTimeout(ClientError):
    """The job has not ended in time; it goes on."""


class JobFailed(ClientError):
    """The job behind a question ended without an answer; `job` says how."""

    def __init__(self, job: Job) -> None:
        self.job = job
        why = f": {job.error['message']} ({job.error['code']})" if job.error else ""
        super().__init__(f"{job.kind} job {job.id} {job.state}{why}")


class ApiError(ClientError):
    """A problem document. `code` is stable; `errors` lists `{field, message, limit}`."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.code = str(problem.get("code", "unknown"))
        self.detail = str(problem.get("detail", f"the server answered {status}"))
        self.retryable = bool(problem.get("retryable", False))
        self.request_id = str(problem.get("request_id", ""))
        self.errors: list[dict[str, str]] = problem.get("errors") or []
        super().__init__(f"{self.detail} ({self.code})")


class InvalidRequest(ApiError):
    """A field or the body is wrong."""


class NotAllowed(ApiError):
    """No valid key, or one without the scope."""


class Missing(ApiError):
    """Unknown to this key's tenant."""


class Gone(ApiError):
    """Its retention is over."""


class Conflicting(ApiError):
    """Other content under the same id, or the job's state forbids it."""


class Busy(ApiError):
    """The server or your queue has no room now."""


_CLASSES: dict[int, type[ApiError]] = {
    400: InvalidRequest,
    401: NotAllowed,
    403: NotAllowed,
    404: Missing,
    409: Conflicting,
    410: Gone,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
    429: Busy,
    503: Busy,
}


def api_error(status: int, problem: Any) -> ApiError:
    """The error of a status; a body that is no problem document does not matter."""
    return _CLASSES.get(status, ApiError)(status, problem if isinstance(problem, dict) else {})
