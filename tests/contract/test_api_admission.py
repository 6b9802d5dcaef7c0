"""Bad input is refused at the door: the right problem, the field, the limit, no traceback, no job."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask

from api.schemas.jobs import Problem
from shared.settings import Settings
from shared.store.jobs import JobStore
from tests.support.api import DALLE, Caller, StandIn, new_key, picture

NO_PICTURE = "img_" + "0" * 64


def dalle(**input_: Any) -> dict[str, Any]:
    return {"kind": "dalle", "input": {"prompts": ["a red apple"], **input_}}


def problem_of(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The answer is this problem and nothing leaks."""
    assert answer.status_code == status, answer.text
    assert answer.mimetype == "application/problem+json"
    document: dict[str, Any] = json.loads(answer.text)
    Problem.model_validate(document)
    assert document["code"] == code
    assert document["request_id"] == answer.headers["X-Request-ID"]
    assert "Traceback" not in answer.text
    assert "<html" not in answer.text.lower()
    return document


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "nonsense", "input": {}}, "kind"),
        ({"input": {}}, "kind"),
        ({"kind": "dalle"}, "input"),
        ({"kind": "dalle", "input": []}, "input"),
        ([], ""),
        ("text", ""),
        (None, ""),
        (dalle(n="4"), "input.n"),
        (dalle(n=0), "input.n"),
        (dalle(n=513), "input.n"),
        (dalle(n=True), "input.n"),
        (dalle(n=2, keep=3), "input"),
        (dalle(prompts=[]), "input.prompts"),
        (dalle(prompts=["x" * 100_000]), "input.prompts.0"),
        (dalle(prompts=["a\u0000b"]), "input.prompts.0"),
        (dalle(prompts=["\u202eevil"]), "input.prompts.0"),
        (dalle(unknown=1), "input.unknown"),
        (dalle(kind="rank"), "input.kind"),
        ({**DALLE, "webhook": {"url": "http://x"}}, "webhook"),
        ({**DALLE, "priority": "urgent"}, "priority"),
        ({**DALLE, "deadline_s": 0.5}, "deadline_s"),
        ({**DALLE, "deadline_s": 8 * 86_400}, "deadline_s"),
        ({**DALLE, "metadata": {"a": 1}}, "metadata.a"),
        ({**DALLE, "metadata": {"a": "x" * 257}}, "metadata.a"),
        ({**DALLE, "metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"kind": "vqgan_clip", "input": {"prompts": "fog:-1"}}, "input"),
        ({"kind": "vqgan_clip", "input": {"prompts": ["a"], "size": [63, 64]}}, "input.size"),
        ({"kind": "unclip", "input": {}}, "input"),
        ({"kind": "unclip", "input": {"prompts": ["a", "b"], "image": NO_PICTURE}}, "input"),
        ({"kind": "unclip", "input": {"prompts": ["a"], "decoder_steps": 251}}, "input.decoder_steps"),
        ({"kind": "unclip", "input": {"image": "cat.png"}}, "input.image"),
        ({"kind": "rank", "input": {"images": ["../etc/passwd"], "prompt": "x"}}, "input.images.0"),
        ({"kind": "classify", "input": {"images": [NO_PICTURE], "labels": ["a", "a"]}}, "input.labels"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_field_is_named(caller: Caller, body: Any, field: str) -> None:
    answer = caller.call("POST", "/v1/jobs", data=json.dumps(body), content_type="application/json")
    document = problem_of(answer, 422, "invalid_input")
    assert document["errors"][0]["field"] == field
    assert not document["retryable"]
    assert caller.count() == 0


def test_limits_are_stated(caller: Caller) -> None:
    document = problem_of(caller.post("/v1/jobs", dalle(prompts=["x" * 1001])), 422, "invalid_input")
    assert document["errors"] == [
        {"field": "input.prompts.0", "message": "String should have at most 1000 characters", "limit": "at most 1000"}
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "nul",
        b"\xff\xfe",
        "[" * 100_000,
        '{"kind": "dalle", "input": {"n": NaN}}',
        "9" * 5000,
        '{"kind": "dalle", "input": {"prompts": ["a"], "temperature": 1e400}}',
        "[" * 900 + "]" * 900,
    ],
    ids=lambda text: str(text)[:12],
)
def test_what_is_not_json_or_too_deep_is_refused(caller: Caller, text: Any) -> None:
    answer = caller.call("POST", "/v1/jobs", data=text, content_type="application/json")
    assert answer.status_code in (400, 422)
    problem_of(answer, answer.status_code, {400: "bad_request", 422: "invalid_input"}[answer.status_code])


def test_http_itself_answers_with_problems(caller: Caller, settings: Settings) -> None:
    problem_of(caller.get("/v2/jobs"), 404, "not_found")
    answer = caller.call("DELETE", "/v1/jobs")
    problem_of(answer, 405, "method_not_allowed")
    assert "POST" in answer.headers["Allow"]
    problem_of(caller.call("POST", "/v1/jobs", data="kind=dalle"), 415, "unsupported_media_type")
    body = json.dumps({**DALLE, "metadata": {"a": "x" * settings.body_max_bytes}})
    too_large = caller.call("POST", "/v1/jobs", data=body, content_type="application/json")
    problem_of(too_large, 413, "body_too_large")
    for query in ("?limit=0", "?limit=x", "?cursor=-1", "?state=done", "?unknown=1"):
        problem_of(caller.get(f"/v1/jobs{query}"), 422, "invalid_input")


def test_a_key_is_needed(app: Flask, caller: Caller) -> None:
    kid = caller.key.split("_")[1]
    for header in (
        "",
        "Bearer",
        "Basic abc",
        "Bearer dq_000000000000_x",
        f"Bearer dq_{kid}_wrong",
        f"Bearer {caller.key}x",
    ):
        answer = app.test_client().post("/v1/jobs", json=DALLE, headers={"Authorization": header})
        problem_of(answer, 401, "unauthorized")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    problem_of(app.test_client().get("/v1/jobs"), 401, "unauthorized")
    assert caller.count() == 0


def test_scopes_are_kept(app: Flask, store: JobStore, tenant: str) -> None:
    reader = Caller(app.test_client(), new_key(store, tenant, "jobs:read"))
    writer = Caller(app.test_client(), new_key(store, tenant, "jobs:write"))
    problem_of(reader.post("/v1/jobs", DALLE), 403, "forbidden")
    problem_of(writer.get("/v1/jobs"), 403, "forbidden")
    problem_of(writer.post("/v1/jobs", {"kind": "probe", "input": {}}), 403, "forbidden")
    job = writer.submit()
    problem_of(reader.post(f"/v1/jobs/{job['id']}/cancel"), 403, "forbidden")
    assert reader.get(f"/v1/jobs/{job['id']}").status_code == 200


def test_a_seed_is_drawn_and_echoed_but_not_part_of_sameness(caller: Caller) -> None:
    job = caller.submit()
    assert 0 <= job["input"]["seed"] < 2**53
    assert caller.submit(dalle(seed=0))["input"]["seed"] == 0
    first = caller.post("/v1/jobs", DALLE, Idempotency_Key="k").json
    assert caller.post("/v1/jobs", DALLE, Idempotency_Key="k").json["id"] == first["id"]


def test_models_are_checked_against_the_pool(caller: Caller, worker: StandIn) -> None:
    assert caller.post("/v1/jobs", dalle(model="not-there")).status_code == 202  # nobody is known: a worker may come
    worker.announce(["emoji-dalle", "emoji-clip"])
    caller.get("/v1/pools")
    fresh = caller.http.application.test_client()
    answer = Caller(fresh, caller.key)

    def refused() -> bool:
        return answer.post("/v1/jobs", dalle(model="not-there")).status_code == 422

    from tests.support.polling import eventually

    eventually(refused, what="the snapshot of workers is a second old at most")
    document = problem_of(answer.post("/v1/jobs", dalle(model="not-there")), 422, "invalid_input")
    assert document["errors"][0]["field"] == "input.model"
    assert document["errors"][0]["limit"] == "one of emoji-clip, emoji-dalle"


def test_pictures_must_be_yours(caller: Caller, stranger: Caller, worker: StandIn) -> None:
    body = picture()
    theirs = stranger.call("POST", "/v1/images", data=body, content_type="image/png").json["id"]
    foreign_job = stranger.submit()
    worker.finish(worker.claim(), [body])
    unknown = f"{foreign_job['id'][:-4]}0000/000.png"

    def refusal(ref: str) -> str:
        request = {"kind": "rank", "input": {"images": [mine, ref], "prompt": "x"}}
        document = problem_of(caller.post("/v1/jobs", request), 422, "invalid_input")
        assert document["errors"][0]["field"] == "input.images.1"
        return str(document["errors"][0]["message"]).replace(ref, "REF")

    mine = caller.call("POST", "/v1/images", data=picture("blue"), content_type="image/png").json["id"]
    messages = {refusal(ref) for ref in (theirs, NO_PICTURE, f"{foreign_job['id']}/000.png", unknown)}
    assert messages == {"you have no picture REF"}

    own = caller.submit()
    worker.finish(worker.claim(), [body])
    refusal(f"{own['id']}/001.png")
    fine = {"kind": "rank", "input": {"images": [mine, f"{own['id']}/000.png"], "prompt": "x"}}
    assert caller.post("/v1/jobs", fine).status_code == 202
    varied = {"kind": "unclip", "input": {"image": theirs}}
    document = problem_of(caller.post("/v1/jobs", varied), 422, "invalid_input")
    assert document["errors"][0]["field"] == "input.image"
    assert caller.post("/v1/jobs", {"kind": "unclip", "input": {"image": mine}}).status_code == 202


def test_the_queue_has_a_limit(settings: Settings, store: JobStore, tenant: str, pool: str) -> None:
    from api.app import create_app

    small = settings.model_copy(update={"pool": pool, "max_queued_per_tenant": 1})
    caller = Caller(create_app(small).test_client(), new_key(store, tenant))
    caller.submit()
    answer = caller.post("/v1/jobs", DALLE)
    assert problem_of(answer, 429, "queue_full")["retryable"]
    assert int(answer.headers["Retry-After"]) > 0
