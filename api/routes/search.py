"""/v1/search, /v1/classify, /v1/rank: what a job made, when it is ready within the time that the caller waits."""

from __future__ import annotations

import uuid

from flask import Response

from api.http.requests import idempotency_key, json_body
from api.http.routing import Call, Responses, Routes, problems
from api.schemas.jobs import Job
from api.schemas.search import ClassifyAnswer, RankAnswer, SearchAnswer
from api.submission.admission import SubmitOptions, job_from_input
from api.submission.responses import KEY_HEADER, PREFER_HEADER, result_response

__all__ = ["routes"]

HEADERS = (KEY_HEADER, {**PREFER_HEADER, "description": "`wait=N`: seconds to wait for the answer: 10, 60 at most"})
FAILED = problems(400, 404, 409, 410, 413, 415, 429, 502, 504)

routes = Routes("search", "Find, label and order pictures with CLIP")


def _body(spec: str) -> dict[str, object]:
    schema = {"$ref": f"#/components/schemas/{spec}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _answers(model: type) -> Responses:
    return {200: model, 202: Job, **FAILED}


@routes.add(
    "POST", "/v1/search", scope="jobs:write", responses=_answers(SearchAnswer), openapi=_body("SearchSpec"),
    headers=HEADERS,
)  # fmt: skip
def search(call: Call) -> Response:
    """Search a collection by texts, pictures, and vectors, added up by their weights.

    200: the hits, best first. 202: it takes longer than you wait; the job is in `Location`. A failed search is a
    problem with the job's error. Its record goes after minutes: keep the answer.
    """
    return _answered(call, "search")


@routes.add(
    "POST", "/v1/classify", scope="jobs:write", responses=_answers(ClassifyAnswer), openapi=_body("ClassifySpec"),
    headers=HEADERS,
)  # fmt: skip
def classify(call: Call) -> Response:
    """Label pictures, or a whole collection, by words.

    200: probabilities per picture. 202: it takes longer than you wait; the job is in `Location`.
    """
    return _answered(call, "classify")


@routes.add(
    "POST", "/v1/rank", scope="jobs:write", responses=_answers(RankAnswer), openapi=_body("RankSpec"), headers=HEADERS
)
def rank(call: Call) -> Response:
    """Order pictures by how well they fit one prompt or many.

    200: scores and order. 202: it takes longer than you wait; the job is in `Location`.
    """
    return _answered(call, "rank")


def _answered(call: Call, kind: str) -> Response:
    options = SubmitOptions(str(uuid.uuid4()), idempotency_key())
    return result_response(call, job_from_input(call.services, call.principal, kind, json_body(), options))
