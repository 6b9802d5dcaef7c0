"""Search, classify and rank over HTTP: what a job made, as soon as it is there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask
from jsonschema_rs import Draft202012Validator

from api.app import create_app
from api.schemas.jobs import Job
from shared.errors import (
    Conflict,
    DreamqueueError,
    EngineError,
    Internal,
    InvalidInput,
    NotFound,
    UnreadableImage,
    VectorsUnavailable,
)
from shared.records.job import Claim
from shared.settings import Settings
from shared.store.events import EventLog
from shared.store.jobs import JobStore
from tests.contract.test_api_admission import NO_PICTURE, problem_of
from tests.contract.test_api_collections import field_of, made
from tests.support.api import Caller, StandIn, new_key, picture

SEARCH = {"collection": "fruit", "text": "red fruit"}
HIT = {"id": NO_PICTURE, "cosine": 0.31, "score": 0.9, "metadata": {"colour": "red"}, "added_at_ms": 1_700_000_000_123}
FOUND: dict[str, Any] = {
    "collection": "fruit", "model": "emoji-clip", "hits": [HIT], "matching": 3, "rows": 5, "next_cursor": "abc",
    "truncated_texts": [],
}  # fmt: skip
SHOWN = {
    "id": NO_PICTURE, "url": f"/v1/images/{NO_PICTURE}", "cosine": 0.31, "score": 0.9, "metadata": {"colour": "red"},
    "added_at": "2023-11-14T22:13:20.123Z",
}  # fmt: skip


@contextmanager
def serving(worker: StandIn, serve: Callable[[Claim], object]) -> Iterator[None]:
    """While inside, one job of the pool is claimed as soon as it is there, and served."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            claim = worker.store.claim(worker.pool, "stand-in")
            if claim is not None:
                serve(claim)
                return
            stop.wait(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def holds(app: Flask, name: str, value: Any) -> None:
    """The value is as the document's schema of that name says."""
    document = app.test_client().get("/openapi.json").json
    Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": document["components"]}).validate(value)


def test_a_search_answers_with_its_hits(app: Flask, caller: Caller, worker: StandIn) -> None:
    made(caller)
    with serving(worker, lambda claim: worker.finish(claim, **FOUND)):
        answer = caller.post("/v1/search", SEARCH)
    assert answer.status_code == 200, answer.text
    found = answer.json
    holds(app, "SearchAnswer", found)
    assert found["hits"] == [SHOWN]
    assert (found["matching"], found["rows"], found["next_cursor"]) == (3, 5, "abc")
    assert found["timings"]["run_s"] == 0.2
    assert answer.headers["Location"] == found["urls"]["self"] == f"/v1/jobs/{found['job_id']}"
    job = caller.get(found["urls"]["self"]).json
    Job.model_validate(job)
    assert job["result"]["hits"] == [SHOWN], "the same form wherever it is read"
    assert (job["kind"], job["priority"]) == ("search", "normal")


def test_a_search_that_takes_longer_is_a_job(caller: Caller, worker: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    made(caller)
    with monkeypatch.context() as patch:
        patch.setattr(EventLog, "read", lambda *_, **__: pytest.fail("it waits"))
        answer = caller.post("/v1/search", SEARCH, Prefer="wait=0")
    assert (answer.status_code, answer.json["state"], answer.json["kind"]) == (202, "queued", "search")
    assert answer.headers["Location"] == answer.json["urls"]["self"]
    Job.model_validate(answer.json)
    waited = caller.post("/v1/search", SEARCH, Prefer="wait=1")
    assert (waited.status_code, waited.headers["Preference-Applied"]) == (202, "wait=1")


def test_a_search_is_repeated_under_its_key(caller: Caller, worker: StandIn) -> None:
    made(caller)
    first = caller.post("/v1/search", SEARCH, Prefer="wait=0", Idempotency_Key="k").json
    worker.finish(worker.claim(first["id"]), **FOUND)
    again = caller.post("/v1/search", SEARCH, Idempotency_Key="k")
    assert (again.status_code, again.json["job_id"]) == (200, first["id"])
    assert again.headers["Idempotent-Replayed"] == "true"
    as_job = caller.post("/v1/jobs", {"kind": "search", "input": SEARCH}, Idempotency_Key="k")
    assert as_job.json["id"] == first["id"], "the same request, either way"
    problem_of(caller.post("/v1/search", {**SEARCH, "limit": 3}, Idempotency_Key="k"), 409, "conflict")
    assert caller.count() == 1


def test_a_searchs_record_goes_after_minutes(
    settings: Settings, store: JobStore, tenant: str, pool: str, worker: StandIn
) -> None:
    app = create_app(settings.model_copy(update={"pool": pool, "search_result_ttl_s": 120}))
    caller = Caller(app.test_client(), new_key(store, tenant))
    made(caller)
    job = caller.post("/v1/search", SEARCH, Prefer="wait=0").json
    other = caller.submit({"kind": "group", "input": {"collection": "fruit"}})
    for each in (job, other):
        worker.finish(worker.claim(each["id"]), **FOUND)
    record, kept = store.get(tenant, job["id"]), store.get(tenant, other["id"])
    assert record.expires_at_ms is not None
    assert record.finished_at_ms is not None
    assert record.expires_at_ms - record.finished_at_ms == 120_000
    assert kept.expires_at_ms is not None
    assert kept.expires_at_ms - kept.finished_at_ms == settings.result_ttl_s * 1000  # type: ignore[operator]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInput("no row of that id", field="terms.0.id"), 422), (NotFound("no collection fruit"), 404),
        (Conflict("other weights"), 409), (UnreadableImage("cut off"), 422), (EngineError("it could not"), 502),
        (VectorsUnavailable("away"), 503), (Internal("a fault"), 503),
    ],
)  # fmt: skip
def test_a_failed_search_is_a_problem(
    settings: Settings, caller: Caller, worker: StandIn, error: DreamqueueError, status: int
) -> None:
    made(caller)
    impatient = JobStore(worker.store.redis, settings.model_copy(update={"max_failures": 1}))
    with serving(worker, lambda claim: impatient.fail(claim, error.to_json())):
        answer = caller.post("/v1/search", SEARCH)
    document = problem_of(answer, status, error.code)
    assert error.message in document["detail"]
    assert document["retryable"] is error.retryable
    assert ("Retry-After" in answer.headers) is (status == 503)
    job = caller.get(answer.headers["Location"]).json
    assert (job["state"], job["error"]["code"]) == ("failed", error.code)


def test_a_cancelled_search_is_a_conflict(caller: Caller) -> None:
    made(caller)
    job = caller.post("/v1/search", SEARCH, Prefer="wait=0", Idempotency_Key="k").json
    caller.post(f"/v1/jobs/{job['id']}/cancel")
    problem_of(caller.post("/v1/search", SEARCH, Idempotency_Key="k"), 409, "cancelled")


def test_labels_and_ranks_answer_likewise(app: Flask, caller: Caller, worker: StandIn) -> None:
    image = caller.call("POST", "/v1/images", data=picture(), content_type="image/png").json["id"]
    labels = [{"label": "an apple", "probability": 0.9}]
    with serving(worker, lambda claim: worker.finish(claim, classifications=[{"image": image, "labels": labels}])):
        answer = caller.post("/v1/classify", {"images": [image], "labels": ["an apple", "a pear"]})
    assert answer.status_code == 200, answer.text
    holds(app, "ClassifyAnswer", answer.json)
    assert answer.json["classifications"] == [{"image": image, "labels": labels}]
    scores = [{"image": image, "score": 0.3, "probability": 1.0}]
    ranking = {"prompt": "red", "scores": scores, "order": [image]}
    with serving(worker, lambda claim: worker.finish(claim, rankings=[ranking], scores=scores, order=[image])):
        answer = caller.post("/v1/rank", {"images": [image], "prompt": "red"})
    assert answer.status_code == 200, answer.text
    holds(app, "RankAnswer", answer.json)
    assert answer.json["order"] == [image]
    assert caller.count() == 2


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("search", {"collection": "fruit"}, ""), ("search", {"text": "red"}, "collection"),
        ("search", {**SEARCH, "limit": 1_001}, "limit"), ("search", {**SEARCH, "kind": "dalle"}, "kind"),
        ("search", {**SEARCH, "cursor": "a b"}, "cursor"), ("search", {**SEARCH, "image": NO_PICTURE}, "image"),
        ("search", {"collection": "fruit", "terms": [{"image": NO_PICTURE}]}, "terms.0.image"),
        ("search", {"collection": "fruit", "terms": [{"text": "a", "weight": 11}]}, "terms.0.weight"),
        ("search", {**SEARCH, "priority": "high"}, "priority"), ("search", [], ""), ("search", "text", ""),
        ("classify", {"images": [NO_PICTURE], "labels": ["a", "b"]}, "images.0"),
        ("rank", {"images": [NO_PICTURE], "prompt": "a"}, "images.0"), ("rank", {"images": []}, "images"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_at_once(caller: Caller, path: str, body: Any, field: str) -> None:
    made(caller)
    assert field_of(caller.post(f"/v1/{path}", body)).startswith(field)
    assert caller.count() == 0


def test_a_foreign_collection_is_not_searched(caller: Caller, stranger: Caller) -> None:
    made(stranger)
    problem_of(caller.post("/v1/search", SEARCH), 404, "not_found")
    problem_of(caller.post("/v1/classify", {"collection": "fruit", "labels": ["a", "b"]}), 404, "not_found")
    assert caller.count() == 0


def test_bodies_have_a_limit(caller: Caller) -> None:
    made(caller)
    answer = caller.post("/v1/search", {**SEARCH, "terms": [{"text": "x" * 2**20}]})
    problem_of(answer, 413, "body_too_large")
    assert caller.count() == 0
