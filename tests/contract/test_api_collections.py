"""Collections over HTTP: made, described, deleted; and the door of every job that names one."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from jsonschema_rs import Draft202012Validator

from api.app import create_app
from shared.settings import Settings
from shared.store.collections import CollectionStore
from shared.store.jobs import JobStore
from tests.contract.test_api_admission import problem_of
from tests.support.api import DALLE, Caller, StandIn, new_key, picture
from tests.support.polling import eventually

ROW = "img_" + "0" * 64
JOBS: dict[str, dict[str, Any]] = {
    "search": {"text": "red"},
    "index": {"images": [{"image": ROW}]},
    "remove": {"ids": [ROW]},
    "reembed": {"model": "emoji-clip"},
    "duplicates": {},
    "group": {},
    "classify": {"labels": ["a", "b"]},
}


@pytest.fixture
def collections(store: JobStore, settings: Settings) -> CollectionStore:
    """The records, as a worker writes them."""
    return CollectionStore(store.redis, settings)


def made(caller: Caller, name: str = "fruit", **said: Any) -> dict[str, Any]:
    """A new collection."""
    answer = caller.post("/v1/collections", {"name": name, **said})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json
    return found


def field_of(answer: Any, status: int = 422, code: str = "invalid_input") -> str:
    """The field that a problem names first."""
    return str(problem_of(answer, status, code)["errors"][0]["field"])


def test_a_collection_is_made_once_and_described(app: Flask, caller: Caller, stranger: Caller) -> None:
    document = app.test_client().get("/openapi.json").json
    first = caller.post("/v1/collections", {"name": "fruit", "description": "what grows"})
    assert (first.status_code, first.headers["Location"]) == (201, "/v1/collections/fruit")
    again = caller.post("/v1/collections", {"name": "fruit"})
    assert (again.status_code, again.json) == (200, first.json)
    problem_of(caller.post("/v1/collections", {"name": "fruit", "model": "other-clip"}), 409, "conflict")
    made(caller, "trees")
    listed = caller.get("/v1/collections").json
    assert [found["name"] for found in listed["collections"]] == ["fruit", "trees"]
    found = caller.get("/v1/collections/fruit").json
    assert found == first.json
    assert (found["rows"], found["model"], found["fields"], found["width"]) == (0, "emoji-clip", {}, 0)
    components = {"components": document["components"]}
    Draft202012Validator({"$ref": "#/components/schemas/Collection", **components}).validate(found)
    Draft202012Validator({"$ref": "#/components/schemas/CollectionList", **components}).validate(listed)

    assert stranger.get("/v1/collections").json == {"collections": []}
    problem_of(stranger.get("/v1/collections/fruit"), 404, "not_found")
    problem_of(stranger.call("DELETE", "/v1/collections/fruit"), 404, "not_found")
    assert caller.call("DELETE", "/v1/collections/fruit").status_code == 204
    problem_of(caller.get("/v1/collections/fruit"), 404, "not_found")
    problem_of(caller.call("DELETE", "/v1/collections/fruit"), 404, "not_found")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"), ({"name": "Fruit"}, "name"), ({"name": "a:b"}, "name"), ({"name": "x" * 64}, "name"),
        ({"name": "a", "model": "../x"}, "model"), ({"name": "a", "size": 1}, "size"), ([], ""),
        ({"name": "a", "description": "x" * 1001}, "description"),
    ],
)  # fmt: skip
def test_what_is_no_collection_is_refused(caller: Caller, body: Any, field: str) -> None:
    assert field_of(caller.post("/v1/collections", body)) == field
    assert caller.get("/v1/collections").json == {"collections": []}


def test_a_collection_takes_the_fingerprint_of_a_live_clip(app: Flask, caller: Caller, worker: StandIn) -> None:
    worker.announce(["emoji-dalle", "emoji-clip"])
    assert made(caller)["fingerprint"] == "0" * 64
    document = problem_of(caller.post("/v1/collections", {"name": "b", "model": "emoji-dalle"}), 422, "invalid_input")
    assert document["errors"][0] == {
        "field": "model", "message": "no worker has the CLIP emoji-dalle", "limit": "one of emoji-clip"
    }  # fmt: skip


@pytest.mark.parametrize("kind", list(JOBS))
def test_a_foreign_collection_looks_unknown(caller: Caller, stranger: Caller, kind: str) -> None:
    made(stranger)

    def refusal(name: str) -> str:
        request = {"kind": kind, "input": {"collection": name, **JOBS[kind]}}
        return str(problem_of(caller.post("/v1/jobs", request), 404, "not_found")["detail"]).replace(name, "NAME")

    assert refusal("fruit") == refusal("nothing") == "no collection NAME"
    assert caller.count() == 0
    made(caller)
    job = caller.submit({"kind": kind, "input": {"collection": "fruit", **JOBS[kind]}})
    assert job["input"]["collection"] == "fruit"


def test_generated_pictures_need_no_collection_made_before(caller: Caller) -> None:
    caller.submit({"kind": "index", "input": {"collection": "generated", "images": [{"image": ROW}]}})
    request = {"kind": "search", "input": {"collection": "generated", "text": "red"}}
    problem_of(caller.post("/v1/jobs", request), 404, "not_found")


@pytest.mark.parametrize("kind", ["search", "remove", "duplicates", "group", "classify"])
def test_a_filter_compares_like_with_like(caller: Caller, tenant: str, collections: CollectionStore, kind: str) -> None:
    made(caller)
    collections.bind(collections.get(tenant, "fruit"), "f" * 64, 4, {"year": "number"})
    input_ = {name: value for name, value in JOBS[kind].items() if name != "ids"}
    request: dict[str, Any] = {"kind": kind, "input": {"collection": "fruit", **input_}}
    request["input"]["filter"] = {"field": "year", "eq": "old"}
    assert field_of(caller.post("/v1/jobs", request)) == "input.filter"
    request["input"]["filter"] = {"not": {"field": "year", "gte": 1990}}
    assert caller.submit(request)["input"]["filter"]["not"]["gte"] == 1990


def test_vectors_of_weights_that_nobody_holds_are_stale(
    caller: Caller, tenant: str, collections: CollectionStore, worker: StandIn
) -> None:
    name = made(caller)["name"]
    assert caller.get(f"/v1/collections/{name}").json["stale"] is None  # who knows
    collections.bind(collections.get(tenant, name), "1" * 64, 128, {})
    worker.announce(["emoji-clip"])
    eventually(
        lambda: [found["stale"] for found in caller.get("/v1/collections").json["collections"]] == [True],
        what="the worker that was announced",
    )  # fmt: skip
    collections.create(tenant, "empty", "emoji-clip")
    assert caller.get("/v1/collections/empty").json["stale"] is False


def test_an_embedding_is_as_wide_as_the_collection(caller: Caller, tenant: str, collections: CollectionStore) -> None:
    made(caller)
    request = {"kind": "search", "input": {"collection": "fruit", "terms": [{"text": "a"}, {"embedding": [1.0, 0.0]}]}}
    caller.submit(request)  # nobody knows yet how wide
    collections.bind(collections.get(tenant, "fruit"), "f" * 64, 4, {})
    assert field_of(caller.post("/v1/jobs", request)) == "input.terms.1.embedding"
    request["input"]["terms"][1]["embedding"] = [1.0, 0.0, 0.0, 0.0]  # type: ignore[index]
    caller.submit(request)


def test_models_are_those_of_the_pool_that_the_job_goes_to(
    settings: Settings, store: JobStore, tenant: str, pool: str, worker: StandIn
) -> None:
    apart = settings.model_copy(update={"pool": pool, "search_pool": f"{pool[:20]}s", "search_shards": 3})
    caller = Caller(create_app(apart).test_client(), new_key(store, tenant))
    made(caller, model="big-clip")  # nobody is alive
    job = caller.submit({"kind": "search", "input": {"collection": "fruit", "text": "red"}})
    assert job["pool"] in {f"{pool[:20]}s-{shard}" for shard in range(3)}
    assert caller.submit({"kind": "duplicates", "input": {"collection": "fruit"}})["pool"] == pool

    worker.announce(["emoji-clip", "emoji-dalle"])
    caller = Caller(create_app(apart).test_client(), caller.key)  # sees the worker at once
    caller.submit({"kind": "search", "input": {"collection": "fruit", "text": "red"}})  # another pool's workers count
    request: dict[str, Any] = {"kind": "index", "input": {"collection": "fruit", **JOBS["index"]}}
    assert field_of(caller.post("/v1/jobs", request)) == "input.collection"
    for model, known in (("emoji-dalle", False), ("emoji-clip", True)):
        answer = caller.post("/v1/collections/fruit/reembed", {"model": model})
        assert answer.status_code == 202 if known else field_of(answer) == "model"


def test_who_says_nothing_about_collecting_gets_what_the_server_is_set_to(
    settings: Settings, store: JobStore, tenant: str, pool: str
) -> None:
    for collects in (True, False):
        app = create_app(settings.model_copy(update={"pool": pool, "collect_generated": collects}))
        caller = Caller(app.test_client(), new_key(store, tenant))
        assert caller.submit()["input"]["collect"] is collects
        said = {"kind": "dalle", "input": {**DALLE["input"], "collect": not collects}}
        assert caller.submit(said)["input"]["collect"] is not collects


@pytest.mark.parametrize(
    ("call", "body", "kind", "expected"),
    [
        ("reembed", {"model": "emoji-clip"}, "reembed", {"model": "emoji-clip"}),
        ("duplicates", {"threshold": 0.9}, "duplicates", {"threshold": 0.9}),
        ("groups", {"k": 3}, "group", {"k": 3}),
        ("images", {"images": [{"image": ROW, "metadata": {"a": 1}}]}, "index", {"job": None}),
        ("images/delete", {"ids": [ROW]}, "remove", {"ids": [ROW]}),
    ],
)
def test_a_path_names_the_collection_of_a_job(
    caller: Caller, stranger: Caller, call: str, body: dict[str, Any], kind: str, expected: dict[str, Any]
) -> None:
    path = f"/v1/collections/fruit/{call}"
    problem_of(caller.post(path, body), 404, "not_found")
    made(caller)
    answer = caller.post(path, body, Idempotency_Key="k")
    assert (answer.status_code, answer.json["kind"]) == (202, kind)
    assert answer.headers["Location"] == answer.json["urls"]["self"]
    assert expected.items() <= answer.json["input"].items()
    assert answer.json["input"]["collection"] == "fruit"
    assert caller.post(path, body, Idempotency_Key="k").json["id"] == answer.json["id"]
    assert field_of(caller.post(path, {**body, "collection": "fruit"})) == "collection"
    assert field_of(caller.post(path, {**body, "kind": "dalle"})) == "kind"
    assert field_of(caller.post(path, {**body, "more": 1})) == "more"
    assert field_of(caller.post(path, [])) == ""
    problem_of(stranger.post(path, body), 404, "not_found")
    problem_of(caller.post("/v1/collections/No:pe/" + call, body), 404, "not_found")


def test_one_picture_is_taken_out_by_its_id(caller: Caller, worker: StandIn) -> None:
    made(caller)
    job = caller.call("DELETE", f"/v1/collections/fruit/images/{ROW}")
    assert (job.status_code, job.json["kind"], job.json["input"]["ids"]) == (202, "remove", [ROW])
    problem_of(caller.call("DELETE", "/v1/collections/fruit/images/apple"), 404, "not_found")
    problem_of(caller.call("DELETE", f"/v1/collections/trees/images/{ROW}"), 404, "not_found")
    worker.finish(worker.claim(job.json["id"]), removed=1)
    assert caller.get(job.json["urls"]["self"]).json["result"]["removed"] == 1


def test_a_retry_goes_through_the_same_door(caller: Caller, worker: StandIn) -> None:
    made(caller)
    job = caller.submit({"kind": "group", "input": {"collection": "fruit", "k": 4}})
    worker.finish(worker.claim(job["id"]), groups=[])
    again = caller.post(f"/v1/jobs/{job['id']}/retry")
    assert (again.status_code, again.json["input"]) == (202, job["input"])
    assert caller.call("DELETE", "/v1/collections/fruit").status_code == 204
    problem_of(caller.post(f"/v1/jobs/{job['id']}/retry"), 404, "not_found")


def test_pictures_of_a_job_come_from_an_ended_one_of_yours(caller: Caller, stranger: Caller, worker: StandIn) -> None:
    made(caller)
    job = caller.submit()
    path = "/v1/collections/fruit/images"
    problem_of(caller.post(path, {"job": job["id"]}), 409, "conflict")
    worker.finish(worker.claim(job["id"]), [picture()])
    assert caller.post(path, {"job": job["id"]}).status_code == 202
    made(stranger)
    assert field_of(stranger.post(path, {"job": job["id"]})) == "job"
    assert field_of(caller.post(path, {"archive": f"{job['id']}/archive.zip"})) == "archive"
    sent = {"kind": "index", "input": {"collection": "fruit", "archive": f"{job['id']}/archive.zip"}}
    assert field_of(caller.post("/v1/jobs", sent)) == "input.archive"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png", "http://127.1/a.png", "http://2130706433/", "http://0x7f.0.0.1/", "http://[::1]/a",
        "http://[::ffff:10.0.0.1]/", "http://10.1.2.3/", "http://192.168.0.1/", "http://169.254.169.254/latest",
        "http://localhost/x", "http://metadata.localhost/", "https://user:secret@example.org/a.png", "http://[/",
        "http://example.org:22/a.png", "http://example.org:99999/", "http://0.0.0.0/", "http://[fe80::1%25eth0]/",
        "http://[64:ff9b::a00:1]/", "http://224.0.0.1/", "http:///a.png", "http://@127.0.0.1/",
    ],
)  # fmt: skip
def test_addresses_that_no_worker_should_ask_are_refused(caller: Caller, url: str) -> None:
    made(caller)
    good = {"url": "https://example.org/a.png"}
    answer = caller.post("/v1/collections/fruit/images", {"images": [good, {"url": url}]})
    assert field_of(answer) == "images.1.url"
    request = {"kind": "index", "input": {"collection": "fruit", "images": [{"url": url}]}}
    assert field_of(caller.post("/v1/jobs", request)) == "input.images.0.url"
    assert caller.count() == 0


def test_hosts_that_an_operator_trusts_are_fetched_from(
    settings: Settings, store: JobStore, tenant: str, pool: str
) -> None:
    app = create_app(settings.model_copy(update={"pool": pool, "fetch_hosts": "10.0.0.9, pictures.internal"}))
    caller = Caller(app.test_client(), new_key(store, tenant))
    made(caller)
    path = "/v1/collections/fruit/images"
    for url in (
        "http://10.0.0.9/a.png",
        "http://10.0.0.9:8080/a.png",
        "https://pictures.internal/",
        "https://1.1.1.1/a",
    ):
        assert caller.post(path, {"images": [{"url": url}]}).status_code == 202, url
    for url in ("http://10.0.0.8/a.png", "http://10.0.0.9:25/a.png"):
        assert field_of(caller.post(path, {"images": [{"url": url}]})) == "images.0.url"


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"Bad Name": 1}, "metadata.Bad Name"), ({"a": [1]}, "metadata.a"), ({"a": {"b": 1}}, "metadata.a"),
        ({"a": "x" * 1001}, "metadata.a"), ({f"f{n}": n for n in range(33)}, "metadata"),
        ({f"f{n}": "x" * 900 for n in range(5)}, "metadata"), ({"a": 2**54}, "metadata.a"), ("text", "metadata"),
        ({f"f{n}": "x" * 1_000 for n in range(1_000)}, "metadata"),
    ],
)  # fmt: skip
def test_metadata_has_limits(caller: Caller, metadata: Any, field: str) -> None:
    made(caller)
    answer = caller.post("/v1/collections/fruit/images", {"images": [{"image": ROW, "metadata": metadata}]})
    assert field_of(answer).startswith(f"images.0.{field}")
    assert caller.count() == 0
