"""Every error leaves as application/problem+json (RFC 9457), and this is the only place where that happens."""

from __future__ import annotations

import json
from typing import Any

from flask import Flask, Response, g, request
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from shared.errors import DreamqueueError, Internal, InvalidInput
from shared.logs import get_logger
from shared.records.job import JobRecord

__all__ = [
    "HTTP_CODES",
    "Rejected",
    "failed_job_response",
    "install_problems",
    "problem_response",
    "rejected_by_schema",
]

log = get_logger(__name__)

HTTP_CODES: dict[int, str] = {  # what HTTP itself refuses, before any of our errors applies
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    411: "length_required",
    413: "body_too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
}
RETRY_AFTER_S = {429: 5, 503: 2}
JOB_STATUSES = {  # of a job that ended without a result, by its error's code; a retryable error is always 503
    "invalid_input": 422,
    "unreadable_image": 422,
    "not_found": 404,
    "expired": 410,
    "conflict": 409,
    "cancelled": 409,
    "deadline_exceeded": 504,
    "internal": 500,
}
OTHER_JOB_STATUS = 502  # the worker, or the model in it, could not do it
MAX_LISTED = 20  # field errors listed in one problem
LIMITS = {
    "max_length": "at most {}",
    "min_length": "at least {}",
    "ge": ">= {}",
    "gt": "> {}",
    "le": "<= {}",
    "lt": "< {}",
    "pattern": "matches {}",
    "expected": "one of {}",
}
MESSAGES = {
    "extra_forbidden": "unknown field",
    "model_type": "should be a JSON object",
    "dict_type": "should be a JSON object",
    "model_attributes_type": "should be a JSON object",
}


class Rejected(InvalidInput):
    """Several fields are wrong; `errors` lists them, the first one speaks for all."""

    def __init__(self, errors: list[dict[str, str]]) -> None:
        first = errors[0]
        name = f"{first['field']}: " if first["field"] else ""
        super().__init__(f"{name}{first['message']}", field=first["field"], limit=first["limit"])
        self.errors = errors


def rejected_by_schema(error: ValidationError, prefix: str = "", skip: int = 0) -> Rejected:
    """One field error per pydantic error. `skip` drops leading location parts that are not the caller's fields."""
    found = error.errors(include_url=False, include_input=False)
    return Rejected([_field_error(item, prefix, skip) for item in found[:MAX_LISTED]])


def _field_error(item: ErrorDetails, prefix: str, skip: int) -> dict[str, str]:
    parts = [str(part) for part in item["loc"][skip:]]
    context = item.get("ctx", {})
    limits = [text.format(context[word]) for word, text in LIMITS.items() if word in context]
    message = MESSAGES.get(item["type"]) or item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return {
        "field": ".".join([*([prefix] if prefix else []), *parts])[:200],
        "message": message,
        "limit": ", ".join(limits)[:200],
    }


def problem_response(error: DreamqueueError) -> Response:
    """The problem document of one of our errors."""
    body = _document(error.status, error.code, error.message, error.retryable)
    if isinstance(error, Rejected):
        body["errors"] = error.errors
    elif isinstance(error, InvalidInput):
        body["errors"] = [{"field": error.field, "message": error.message, "limit": error.limit}]
    return _response(body)


def failed_job_response(record: JobRecord) -> Response:
    """The problem document of a job that ended without a result, for a caller who asked for its result."""
    error = record.error or {}
    code = str(error.get("code") or ("deadline_exceeded" if record.state == "expired" else record.state))
    retryable = bool(error.get("retryable"))
    status = 503 if retryable else JOB_STATUSES.get(code, OTHER_JOB_STATUS)
    detail = f"job {record.id}: {error.get('message') or f'it is {record.state}'}"
    return _response(_document(status, code, detail, retryable))


def _document(status: int, code: str, detail: str, retryable: bool) -> dict[str, Any]:
    return {
        "type": f"urn:dreamqueue:problem:{code}",
        "title": code.replace("_", " "),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": g.get("request_id", ""),
        "retryable": retryable,
    }


def _response(body: dict[str, Any]) -> Response:
    status: int = body["status"]
    response = Response(json.dumps(body), status, mimetype="application/problem+json")
    if status in RETRY_AFTER_S:
        response.headers["Retry-After"] = str(RETRY_AFTER_S[status])
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="dreamqueue"'
    if status == 413:
        response.headers["Connection"] = "close"  # the rest of the body is not read
    return response


def _http_response(error: HTTPException) -> Response:
    status = error.code or 500
    code = HTTP_CODES.get(status, "bad_request" if status < 500 else "internal")
    detail = error.description or error.name
    if status == 404:
        detail = f"there is no {request.method} {request.path[:200]}"
    response = _response(_document(status, code, detail, retryable=False))
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return response


def _unexpected_response(error: Exception) -> Response:
    log.error("request failed", request_id=g.get("request_id", ""), path=request.path, exc_info=error)
    return problem_response(Internal("an error of ours; it has been logged under this request_id"))


def install_problems(app: Flask) -> None:
    """Map our errors, HTTP's and everything unforeseen."""
    app.register_error_handler(DreamqueueError, problem_response)
    app.register_error_handler(HTTPException, _http_response)
    app.register_error_handler(ValidationError, lambda error: problem_response(rejected_by_schema(error)))
    app.register_error_handler(Exception, _unexpected_response)
