"""The life of a job over HTTP: submit once, follow, cancel, retry, fetch."""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any

import pytest

from api.schemas.jobs import Job, JobList
from shared.settings import Settings
from shared.storage import ObjectStore
from shared.store.events import Event, EventLog
from shared.store.jobs import JobStore
from tests.contract.test_api_admission import problem_of
from tests.support.api import DALLE, Caller, StandIn, picture
from tests.support.polling import PATIENCE_S

PROBE = {"kind": "probe", "input": {}}


def events_of(answer: Any) -> list[tuple[str, str]]:
    """(id, type) of an event stream that has ended."""
    found = []
    for frame in answer.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in frame.splitlines() if ": " in line)
        if "data" in fields:
            found.append((fields["id"], fields["event"]))
    return found


def test_a_job_as_designed(caller: Caller, worker: StandIn, pool: str) -> None:
    body = {**DALLE, "priority": "high", "deadline_s": 60, "metadata": {"for": "me"}}
    answer = caller.post("/v1/jobs", body)
    job = answer.json
    assert answer.status_code == 202
    assert answer.headers["Location"] == job["urls"]["self"] == f"/v1/jobs/{job['id']}"
    Job.model_validate(job)
    assert (job["state"], job["position"], job["pool"], job["priority"]) == ("queued", 0, pool, "high")
    assert job["metadata"] == {"for": "me"}
    assert job["input"]["temperature"] == 1.0, "defaults are filled in"
    assert "kind" not in job["input"]

    claim = worker.claim()
    name = worker.preview(claim, 40, picture())
    running = caller.get(f"/v1/jobs/{job['id']}").json
    Job.model_validate(running)
    assert running["state"] == "running"
    assert running["progress"] == {
        "fraction": 0.4, "stage": "sample", "step": 40, "total": 100,
        "preview_url": f"/v1/jobs/{job['id']}/artifacts/{name}",
    }  # fmt: skip
    worker.finish(claim, [picture(), picture("blue")])
    ended = caller.get(f"/v1/jobs/{job['id']}").json
    Job.model_validate(ended)
    assert ended["state"] == "succeeded"
    assert ended["finished_at"] < ended["expires_at"]
    assert [image["name"] for image in ended["result"]["images"]] == ["000.png", "001.png"]
    assert ended["result"]["images"][0]["url"] == f"/v1/jobs/{job['id']}/artifacts/000.png"
    assert "key" not in ended["result"]["images"][0], "where it lies is nobody's business"
    assert ended["timings"]["run_s"] == 0.2


def test_the_same_submission_is_the_same_job(caller: Caller, worker: StandIn) -> None:
    first = caller.post("/v1/jobs", DALLE, Idempotency_Key="a")
    again = caller.post("/v1/jobs", dict(reversed(DALLE.items())), Idempotency_Key="a")
    assert again.json["id"] == first.json["id"]
    assert again.headers["Idempotent-Replayed"] == "true"
    problem_of(caller.post("/v1/jobs", {**DALLE, "priority": "low"}, Idempotency_Key="a"), 409, "conflict")
    worker.finish(worker.claim(), [picture()])
    after_end = caller.post("/v1/jobs", DALLE, Idempotency_Key="a")
    assert (after_end.status_code, after_end.json["state"]) == (200, "succeeded")
    assert caller.post("/v1/jobs", DALLE, Idempotency_Key="b").json["id"] != first.json["id"]
    assert caller.count() == 2
    problem_of(caller.post("/v1/jobs", DALLE, Idempotency_Key="ä"), 422, "invalid_input")


def test_put_is_idempotent_by_id(caller: Caller, stranger: Caller) -> None:
    job_id = str(uuid.uuid4())
    first = caller.call("PUT", f"/v1/jobs/{job_id}", json=DALLE)
    again = caller.call("PUT", f"/v1/jobs/{job_id.upper()}", json=DALLE)
    assert (first.status_code, first.json["id"], again.json["id"]) == (202, job_id, job_id)
    problem_of(caller.call("PUT", f"/v1/jobs/{job_id}", json={**DALLE, "priority": "low"}), 409, "conflict")
    problem_of(caller.call("PUT", "/v1/jobs/mine", json=DALLE), 422, "invalid_input")
    theirs = stranger.call("PUT", f"/v1/jobs/{job_id}", json={**DALLE, "priority": "low"})
    assert theirs.status_code == 202, "another tenant's ids are another space"
    assert caller.get(f"/v1/jobs/{job_id}").json["priority"] == "normal"


def test_a_long_poll_wakes_on_the_commit(caller: Caller, worker: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    job = caller.submit()
    claim = worker.claim()
    waits, read, woke_by = threading.Event(), EventLog.read, []

    def watched(self: EventLog, *args: Any, **options: Any) -> list[Event]:
        waits.set()
        woke_by[:] = read(self, *args, **options)
        return woke_by

    def commit() -> None:
        waits.wait(PATIENCE_S)
        worker.finish(claim)

    monkeypatch.setattr(EventLog, "read", watched)
    thread = threading.Thread(target=commit)
    thread.start()
    answer = caller.get(f"/v1/jobs/{job['id']}?wait=60")
    thread.join()
    assert answer.json["state"] == "succeeded"
    assert [event.type for event in woke_by] == ["finished"], "by the event, not by the end of a block"


def test_a_wait_ends_in_time(caller: Caller) -> None:
    job = caller.submit()
    began = time.monotonic()
    assert caller.get(f"/v1/jobs/{job['id']}?wait=0.2").json["state"] == "queued"
    assert time.monotonic() - began >= 0.2
    problem_of(caller.get(f"/v1/jobs/{job['id']}?wait=61"), 422, "invalid_input")
    answer = caller.post("/v1/jobs", DALLE, Prefer="respond-async, wait=1")
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (202, "wait=1")


def test_an_etag_spares_the_body(caller: Caller, worker: StandIn) -> None:
    job = caller.submit()
    url = f"/v1/jobs/{job['id']}"
    tag = caller.get(url).headers["ETag"]
    same = caller.get(url, If_None_Match=tag)
    assert (same.status_code, same.data) == (304, b"")
    claim = worker.claim()
    changed = caller.get(f"{url}?wait=20", If_None_Match=tag)
    assert (changed.status_code, changed.json["state"]) == (200, "running")
    worker.finish(claim)
    assert caller.get(url, If_None_Match=changed.headers["ETag"]).json["state"] == "succeeded"


def test_events_are_replayed_from_where_one_left(caller: Caller, worker: StandIn) -> None:
    job = caller.submit()
    claim = worker.claim()
    worker.preview(claim, 40, picture())
    worker.store.progress(claim, {"fraction": 0.9, "stage": "decode", "step": 90, "total": 100})
    worker.finish(claim, [picture()])
    stream = caller.get(job["urls"]["events"])
    assert stream.mimetype == "text/event-stream"
    seen = events_of(stream)
    assert [kind for _, kind in seen] == ["queued", "started", "preview", "progress", "finished"]
    assert '"key"' not in stream.text
    assert f"/v1/jobs/{job['id']}/artifacts/preview-000040.png" in stream.text
    rest = caller.get(job["urls"]["events"], Last_Event_ID=seen[2][0])
    assert events_of(rest) == seen[3:]
    assert caller.get(job["urls"]["events"], Last_Event_ID=seen[-1][0]).status_code == 204
    problem_of(caller.get(job["urls"]["events"], Last_Event_ID="x"), 422, "invalid_input")


def test_a_stream_that_is_gone_still_tells_the_end(
    caller: Caller, worker: StandIn, store: JobStore, tenant: str
) -> None:
    job = caller.submit()
    worker.finish(worker.claim())
    store.redis.delete(f"dq:events:{tenant}:{job['id']}")
    assert [kind for _, kind in events_of(caller.get(job["urls"]["events"]))] == ["finished"]


def test_cancel_queued_running_and_ended(caller: Caller, worker: StandIn) -> None:
    queued = caller.submit()
    answer = caller.post(queued["urls"]["cancel"])
    assert (answer.status_code, answer.json["state"]) == (200, "cancelled")
    problem_of(caller.post(queued["urls"]["cancel"]), 409, "already_final")

    running = caller.submit()
    claim = worker.claim()
    answer = caller.post(running["urls"]["cancel"])
    assert (answer.status_code, answer.json["state"], answer.json["cancel_requested"]) == (202, "running", True)
    worker.finish(claim, [picture()])
    ended = caller.get(running["urls"]["self"]).json
    assert ended["state"] == "cancelled"
    assert len(ended["result"]["images"]) == 1, "what was finished is kept"


def test_pause_and_resume(caller: Caller, worker: StandIn) -> None:
    first, second = caller.submit(), caller.submit()
    answer = caller.post(first["urls"]["pause"])
    assert (answer.status_code, answer.json["state"], answer.json["paused"]) == (200, "queued", True)
    assert answer.json["position"] is None
    assert caller.post(first["urls"]["pause"]).status_code == 200, "asked twice is asked once"
    claim = worker.claim()
    assert claim.id == second["id"], "a held job is not claimed"
    answer = caller.post(second["urls"]["pause"])
    assert (answer.status_code, answer.json["state"], answer.json["paused"]) == (202, "running", True)
    assert worker.store.beat([claim]) == ["yield"]
    worker.store.release(claim)
    held = caller.get(second["urls"]["self"]).json
    assert (held["state"], held["paused"], held["attempts"][0]["outcome"]) == ("queued", True, "released")
    assert worker.store.claim(worker.pool, "stand-in") is None

    answer = caller.post(second["urls"]["resume"])
    assert (answer.status_code, answer.json["paused"], answer.json["position"]) == (200, False, 0)
    caller.post(first["urls"]["resume"])
    assert worker.claim().id == first["id"], "each goes on from its old place"
    claim = worker.claim()
    caller.post(second["urls"]["pause"])
    worker.finish(claim, [picture()])
    ended = caller.get(second["urls"]["self"]).json
    assert (ended["state"], ended["paused"]) == ("succeeded", False), "what is made before it stops is kept"
    for call in ("pause", "resume"):
        problem_of(caller.post(second["urls"][call]), 409, "already_final")
    kinds = [kind for _, kind in events_of(caller.get(second["urls"]["events"]))]
    assert kinds == ["queued", "started", "paused", "queued", "resumed", "started", "paused", "finished"]


def test_a_held_job_counts_expires_and_can_be_cancelled(
    caller: Caller, worker: StandIn, store: JobStore, tenant: str
) -> None:
    held = caller.submit()
    caller.post(held["urls"]["pause"])
    assert store.redis.get(f"dq:queued:{tenant}") == "1"
    assert caller.get("/v1/jobs?state=queued").json["jobs"][0]["paused"]
    assert caller.post(held["urls"]["cancel"]).json["state"] == "cancelled"
    late = caller.submit({**DALLE, "deadline_s": 1})
    caller.post(late["urls"]["pause"])
    store.redis.zadd("dq:deadlines", {f"{tenant}:{late['id']}": 1})
    store.sweeps.reap()
    assert caller.get(late["urls"]["self"]).json["state"] == "expired"
    assert store.redis.get(f"dq:queued:{tenant}") == "0"


def test_retry_makes_a_new_job(caller: Caller, worker: StandIn) -> None:
    job = caller.submit()
    problem_of(caller.post(job["urls"]["retry"]), 409, "conflict")
    worker.store.fail(worker.claim(), {"code": "non_finite", "message": "NaN", "retryable": False})
    failed = caller.get(job["urls"]["self"]).json
    assert failed["error"] == {"code": "non_finite", "message": "NaN", "retryable": False}
    again = caller.post(job["urls"]["retry"], Idempotency_Key="r")
    assert again.status_code == 202
    assert again.json["retry_of"] == job["id"]
    assert again.json["input"] == job["input"], "the seed too"
    assert caller.post(job["urls"]["retry"], Idempotency_Key="r").json["id"] == again.json["id"]
    assert caller.get(job["urls"]["self"]).json["state"] == "failed", "an ended job never changes"


def test_a_retry_that_waits_says_until_when(caller: Caller, worker: StandIn) -> None:
    job = caller.submit()
    error = {"code": "out_of_memory", "message": "full", "retryable": True}
    worker.store.fail(worker.claim(), error, delay_s=60)
    waiting = caller.get(job["urls"]["self"]).json
    assert (waiting["state"], waiting["position"]) == ("queued", None)
    assert waiting["due_at"] > waiting["created_at"]
    assert waiting["attempts"][0]["outcome"] == "retried"
    assert waiting["error"] == error


def test_lists_are_filtered_and_paged(caller: Caller, worker: StandIn) -> None:
    ids = [caller.submit()["id"] for _ in range(4)] + [caller.submit(PROBE)["id"]]
    worker.finish(worker.claim())
    page = caller.get("/v1/jobs?limit=3").json
    JobList.model_validate(page)
    rest = caller.get(f"/v1/jobs?limit=3&cursor={page['next_cursor']}").json
    assert [job["id"] for job in page["jobs"] + rest["jobs"]] == ids[::-1]
    assert rest["next_cursor"] is None
    assert [job["id"] for job in caller.get("/v1/jobs?kind=probe").json["jobs"]] == ids[-1:]
    assert len(caller.get("/v1/jobs?state=succeeded").json["jobs"]) == 1


@pytest.mark.parametrize("name", ["000.png", "preview-000040.png"])
def test_artifacts_by_redirect_and_inline(caller: Caller, worker: StandIn, name: str) -> None:
    from urllib.request import urlopen

    body = picture("green")
    job = caller.submit()
    claim = worker.claim()
    worker.preview(claim, 40, body)
    worker.preview(claim, 50, picture())
    worker.finish(claim, [body])
    url = f"/v1/jobs/{job['id']}/artifacts/{name}"
    redirect = caller.get(url)
    assert redirect.status_code == 302
    with urlopen(redirect.headers["Location"]) as answer:
        assert answer.read() == body
        assert answer.headers["Content-Type"] == "image/png"
    inline = caller.get(f"{url}?inline=1")
    assert (inline.data, inline.mimetype) == (body, "image/png")
    assert inline.headers["X-Content-Type-Options"] == "nosniff"
    for missing in ("001.png", "preview-000041.png", "snapshot.bin", ".."):
        assert caller.get(f"/v1/jobs/{job['id']}/artifacts/{missing}").status_code == 404


def test_what_a_browser_might_run_is_only_downloaded(
    caller: Caller, worker: StandIn, objects: ObjectStore, tenant: str
) -> None:
    job = caller.submit()
    key = f"{tenant}/jobs/{job['id']}/a1/x.html"
    objects.put(key, b"<script>", "text/html")
    worker.finish(worker.claim(), files=[{"name": "x.html", "key": key}])
    answer = caller.get(f"/v1/jobs/{job['id']}/artifacts/x.html?inline=1")
    assert answer.mimetype == "application/octet-stream"
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert "sandbox" in answer.headers["Content-Security-Policy"]


def test_an_expired_job_is_gone_not_unknown(caller: Caller, worker: StandIn, store: JobStore, tenant: str) -> None:
    job = caller.submit()
    worker.finish(worker.claim(), [picture()])
    store.sweeps.forget(tenant, job["id"])
    for path in ("", "/events", "/artifacts/000.png"):
        problem_of(caller.get(job["urls"]["self"] + path), 410, "expired")
    problem_of(caller.post(job["urls"]["cancel"]), 410, "expired")
    problem_of(caller.post(job["urls"]["retry"]), 410, "expired")
    problem_of(caller.post(job["urls"]["pause"]), 410, "expired")
    problem_of(caller.post(job["urls"]["resume"]), 410, "expired")


def test_a_foreign_job_looks_like_an_unknown_one(caller: Caller, stranger: Caller, worker: StandIn) -> None:
    job = caller.submit()
    worker.finish(worker.claim(), [picture()])
    unknown = str(uuid.uuid4())
    calls = [
        ("GET", ""), ("GET", "?wait=1"), ("GET", "/events"), ("GET", "/artifacts/000.png"),
        ("GET", "/artifacts/000.png?inline=1"), ("GET", "/artifacts/preview-000040.png"), ("POST", "/cancel"),
        ("POST", "/retry"), ("POST", "/pause"), ("POST", "/resume"),
    ]  # fmt: skip
    for method, path in calls:
        foreign = problem_of(stranger.call(method, f"/v1/jobs/{job['id']}{path}"), 404, "not_found")
        missing = problem_of(stranger.call(method, f"/v1/jobs/{unknown}{path}"), 404, "not_found")
        assert foreign["detail"].replace(job["id"], "ID") == missing["detail"].replace(unknown, "ID")
    assert stranger.count() == 0


def test_eta_follows_pace_slots_and_place(caller: Caller, worker: StandIn, store: JobStore, pool: str) -> None:
    worker.announce(["emoji-dalle", "emoji-clip"], slots=2)
    store.redis.hset(f"dq:pace:{pool}", "dalle", "10")
    jobs = [caller.submit() for _ in range(5)]
    last = caller.get(jobs[-1]["urls"]["self"]).json
    assert (last["position"], last["eta_s"]) == (4, 25.0)  # four before it on two slots, at 10 s each, and its own run


def test_a_store_that_is_away_is_a_503(settings: Settings, objects: ObjectStore) -> None:
    from api.app import create_app

    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0", "s3_endpoint": "http://127.0.0.1:1"})
    caller = Caller(create_app(away).test_client(), "dq_000000000000_x")
    answer = caller.post("/v1/jobs", DALLE)
    assert problem_of(answer, 503, "store_unavailable")["retryable"]
    assert int(answer.headers["Retry-After"]) > 0
    problem_of(caller.get("/readyz"), 503, "store_unavailable")
    assert caller.get("/healthz").status_code == 200, "a shared fault takes no node out"
    assert "dreamqueue_store_up 0.0" in caller.get("/metrics").text


def test_a_blocking_read_that_fails_is_a_503(app: Any, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    import redis

    job = caller.submit()

    def cut(*_: Any, **__: Any) -> None:
        raise redis.ConnectionError("cut")

    monkeypatch.setattr(redis.Redis, "xread", cut)
    problem_of(caller.get(f"{job['urls']['self']}?wait=5"), 503, "store_unavailable")
