"""The OpenAPI document is true, every route is guarded, and the pages are safe and self-contained."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask
from jsonschema_rs import Draft202012Validator, meta

from api.client.cli import OURS
from api.http.auth import SCOPES
from shared.specs.kinds import kinds
from shared.store.jobs import JobStore
from tests.contract.test_api_admission import problem_of
from tests.support.api import DALLE, Caller, StandIn, new_key, picture

OPEN_RULES = {"/healthz", "/readyz", "/metrics", "/openapi.json", "/", "/ui/<name>", "/docs", "/docs/<name>"}


@pytest.fixture
def document(app: Flask) -> dict[str, Any]:
    """/openapi.json"""
    found: dict[str, Any] = app.test_client().get("/openapi.json").json
    return found


def refs(value: Any) -> set[str]:
    """Every $ref in a document."""
    if isinstance(value, dict):
        here = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return here.union(*map(refs, value.values()))
    return set().union(*map(refs, value)) if isinstance(value, list) else set()


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert refs(document) <= schemas
    for schema in document["components"]["schemas"].values():
        meta.validate(schema)


def test_every_route_is_documented_and_guarded(app: Flask, document: dict[str, Any]) -> None:
    stranger = app.test_client()
    for rule in app.url_map.iter_rules():
        if rule.rule in OPEN_RULES:
            continue
        path = re.sub(r"<(\w+)>", r"{\1}", rule.rule)
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            operation = document["paths"][path][method.lower()]
            assert operation["security"] == [{"key": []}]
            assert operation["summary"]
            url = re.sub(r"<\w+>", "x", rule.rule)
            problem_of(stranger.open(url, method=method), 401, "unauthorized")


def test_every_parameter_is_documented(document: dict[str, Any]) -> None:
    """In path, query and headers: flask-openapi3 takes them as a part of the operation object."""
    for path, operations in document["paths"].items():
        for operation in operations.values():
            found = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"}
            assert found == set(re.findall(r"{(\w+)}", path)), path
    listed = {parameter["name"]: parameter for parameter in document["paths"]["/v1/jobs"]["get"]["parameters"]}
    assert {"state", "kind", "cursor", "limit"} <= set(listed)
    assert all(parameter["in"] == "query" and parameter["schema"] for parameter in listed.values())
    sent = {parameter["name"]: parameter["in"] for parameter in document["paths"]["/v1/jobs"]["post"]["parameters"]}
    assert sent["Idempotency-Key"] == "header"


def test_a_key_without_scopes_reaches_nothing(app: Flask, store: JobStore, tenant: str) -> None:
    from api.http.auth import KeyStore

    caller = Caller(app.test_client(), KeyStore(store.redis).create(tenant, []))
    for rule in app.url_map.iter_rules():
        if rule.rule not in OPEN_RULES:
            for method in rule.methods - {"HEAD", "OPTIONS"}:
                problem_of(caller.call(method, re.sub(r"<\w+>", "x", rule.rule)), 403, "forbidden")


def test_kinds_and_examples_are_those_of_the_specs(document: dict[str, Any]) -> None:
    examples = {name: dict(kind.example) for name, kind in kinds().items()}
    assert document["components"]["schemas"]["Job"]["properties"]["kind"]["enum"] == list(examples)
    content = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert list(content["examples"]) == list(examples)
    request = {"$ref": "#/components/schemas/JobRequest", "components": document["components"]}
    validator = Draft202012Validator(request)
    for kind, example in examples.items():
        validator.validate({"kind": kind, "input": example})
    assert not validator.is_valid({"kind": "dalle", "input": {"prompts": ["a"], "n": 0}})
    assert not validator.is_valid({"kind": "rank", "input": examples["dalle"]})


def test_answers_are_as_documented(caller: Caller, worker: StandIn, document: dict[str, Any]) -> None:
    worker.announce(["emoji-dalle", "emoji-clip"])
    job = caller.submit()
    worker.finish(worker.claim(), [picture()])
    cases = [
        ("/v1/jobs/{job_id}", f"/v1/jobs/{job['id']}"), ("/v1/jobs", "/v1/jobs"), ("/v1/models", "/v1/models"),
        ("/v1/pools", "/v1/pools"), ("/v1/workers", "/v1/workers"), ("/healthz", "/healthz"), ("/readyz", "/readyz"),
    ]  # fmt: skip
    for template, path in cases:
        answer = caller.get(path)
        schema = document["paths"][template]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": document["components"]}).validate(answer.json)


def test_pages_load_nothing_from_elsewhere(app: Flask) -> None:
    http = app.test_client()
    for path in ("/", "/docs"):
        page = http.get(path)
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        parts = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
        assert parts
        assert all(part.startswith("/") and not part.startswith("//") for part in parts)
        for part in parts:
            assert http.get(part).status_code == 200, part
        assert not re.search(r"<script(?![^>]*src)|\son\w+=|style=", page.text), "no inline script or style"
    for path in ("/ui/../app.py", "/ui/%2e%2e%2fapp.py", "/ui/nothing.js", "/docs/nothing.js"):
        problem_of(http.get(path), 404, "not_found")


def test_metrics_keep_their_label_sets_closed(caller: Caller) -> None:
    for number in range(50):
        caller.get(f"/v1/jobs/{number}")
        caller.get(f"/nowhere/{number}")
        caller.call(f"M{number}", "/v1/jobs")
    text = caller.get("/metrics").text
    routes = set(re.findall(r'dreamqueue_http_requests_total\{method="(\w+)",route="([^"]+)"', text))
    assert ("GET", "/v1/jobs/<job_id>") in routes
    assert ("GET", "unmatched") in routes
    assert len(routes) < 60
    assert "/nowhere" not in text
    assert "dreamqueue_store_up 1.0" in text


def test_request_ids_are_echoed_when_sane(app: Flask) -> None:
    http = app.test_client()
    assert http.get("/healthz", headers={"X-Request-ID": "abc-1"}).headers["X-Request-ID"] == "abc-1"
    assert http.get("/healthz", headers={"X-Request-ID": "a b<script>"}).headers["X-Request-ID"] != "a b<script>"


def test_a_fault_of_ours_is_a_problem_too(app: Flask, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(JobStore, "list_jobs", broken)
    answer = caller.get("/v1/jobs")
    assert problem_of(answer, 500, "internal")["retryable"]
    assert "secret detail" not in answer.text


def test_keys_are_stored_hashed_and_can_end(app: Flask, store: JobStore, tenant: str) -> None:
    from api.http.auth import KeyStore

    keys = KeyStore(store.redis)
    text = new_key(store, tenant)
    (held,) = keys.list(tenant)
    secret = text.split("_", 2)[2]
    assert secret not in str(store.redis.hgetall(f"dq:key:{held.kid}"))
    assert held.scopes == SCOPES
    assert keys.revoke(held.kid)
    problem_of(Caller(app.test_client(), text).post("/v1/jobs", DALLE), 401, "unauthorized")
    over = Caller(app.test_client(), keys.create(tenant, SCOPES, expires_in_s=-1))
    problem_of(over.get("/v1/jobs"), 401, "unauthorized")


def test_every_command_exists() -> None:
    from api.client.cli import cli

    for name in OURS:
        command = cli.get_command(None, name)  # type: ignore[arg-type, attr-defined]
        assert command is not None
        assert command.help
