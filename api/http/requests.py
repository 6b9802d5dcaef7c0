"""Reading what Flask's request holds: JSON bodies, and the headers our calls honour."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from flask import request
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

from shared.errors import InvalidInput, NotFound

__all__ = ["JOB_ID", "body_bytes", "idempotency_key", "json_body", "known_id", "last_event_id", "preferred_wait_s"]

JOB_ID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
KEY = re.compile(r"^[\x21-\x7e]{1,255}$")
EVENT_ID = re.compile(r"^\d{1,15}-\d{1,10}$")
WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])")
MAX_WAIT_S = 60


def json_body() -> Any:
    """The body as JSON. Raises UnsupportedMediaType, BadRequest (malformed, too deep) and, by Flask, 413."""
    if not request.is_json:
        raise UnsupportedMediaType("send Content-Type: application/json")
    try:
        return json.loads(body_bytes(), parse_constant=_refuse_constant)
    except RecursionError:
        raise BadRequest("the JSON is nested too deeply") from None
    except ValueError as error:  # also UnicodeDecodeError, and numbers of thousands of digits
        raise BadRequest(f"the body is not JSON: {str(error)[:200]}") from None


def body_bytes() -> bytes:
    """The raw body. Raises RequestEntityTooLarge; a chunked one Werkzeug would cut off at the limit without a word."""
    body = request.get_data(cache=False)
    if request.content_length is None and len(body) >= (request.max_content_length or 0):
        raise RequestEntityTooLarge()
    return body


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def known_id(job_id: str) -> None:
    """What is no UUID was never a job: NotFound, without asking the store."""
    if not JOB_ID.fullmatch(job_id):
        raise NotFound(f"no job {job_id[:64]}")


def idempotency_key() -> str | None:
    """The Idempotency-Key header."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not KEY.fullmatch(key):
        raise InvalidInput("an idempotency key is visible ASCII", field="Idempotency-Key", limit="1 to 255 characters")
    return key


def preferred_wait_s() -> float | None:
    """`Prefer: wait=N`, at most 60: a preference beyond the limit is not an error (RFC 7240). None if not said."""
    found = WAIT.search(request.headers.get("Prefer", ""))
    return float(min(int(found[1]), MAX_WAIT_S)) if found else None


def last_event_id() -> str | None:
    """The Last-Event-ID header."""
    value = request.headers.get("Last-Event-ID") or None
    if value is not None and not EVENT_ID.fullmatch(value):
        raise InvalidInput("not an event id of ours", field="Last-Event-ID", limit="as in a stream's id lines")
    return value
