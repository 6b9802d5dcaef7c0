"""What schemathesis makes of the OpenAPI document: no answer may be a 5xx, undocumented, or unlike its schema."""

from __future__ import annotations

import contextlib
from typing import Any

import hypothesis
import hypothesis.errors
import pytest
import schemathesis
from flask import Flask
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from shared.store.jobs import JobStore
from tests.support.api import new_key

EXAMPLES = 20  # per operation and mode; about forty seconds in all
COLLECTION = "fuzzed"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


SKIPPED = {"/", "/docs", "/metrics", "/v1/jobs/{job_id}/events"}  # pages, and a stream that need not end


@pytest.mark.slow
def test_answers_keep_to_the_document(app: Flask, store: JobStore, tenant: str) -> None:
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
    headers = {"Authorization": f"Bearer {new_key(store, tenant)}"}
    app.test_client().post("/v1/collections", json={"name": COLLECTION}, headers=headers)
    tried = []
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path not in SKIPPED:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                _fuzz(operation, mode, headers)
            tried.append(operation.label)
    assert len(tried) >= 14, tried


def _lead_inside(case: Any) -> None:
    """A collection that is there: names drawn at random only ever find that there is none."""
    if "name" in (case.path_parameters or {}):
        case.path_parameters["name"] = COLLECTION
    if isinstance(case.body, dict):
        for said in (case.body, case.body.get("input")):
            if isinstance(said, dict) and "collection" in said:
                said["collection"] = COLLECTION


def _fuzz(operation: Any, mode: GenerationMode, headers: dict[str, str]) -> None:
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    def run(case: Any) -> None:
        if "wait" in (case.query or {}):
            case.query["wait"] = "0"  # the fuzzer has no time to wait
        if mode is GenerationMode.POSITIVE:
            _lead_inside(case)
        case.headers = {**(case.headers or {}), "Prefer": "wait=0"}
        case.call_and_validate(headers=headers, checks=CHECKS)

    with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # a call without parameters cannot be made wrongly
        run()
