"""Texts and ids that were made to cost much, or to be taken for others: refused before they cost anything."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask

from shared.specs.kinds import parse_spec
from shared.store.jobs import JobStore
from tests.support.api import Caller

MARKS = "\u0323\u0301"
LONG_RUNS = {
    "two classes": "a" + MARKS * 20_000,
    "one class": "a" + "\u0301" * 40_000,
    "many bases": ("a" + MARKS * 16) * 2_000,
    "no base": MARKS * 20_000,
    "Hebrew": "\u05d0" + "\u05b0\u05b1\u05bc" * 9_000,
    "musical": "\U0001d157" + "\U0001d165\U0001d16e" * 9_000,
    "short, but a run": "a" + MARKS * 16,
    "long": "a" * 1_001,
    "very long": "a" * 300_000,
    "bars": "|".join("a" * 200_000),
    "colons": ":".join("1" * 200_000),
}
COST_S = 2.0  # CPU of this process; the fault took 7 s and, for the longest, minutes


def inputs(text: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        ("dalle", {"prompts": [text]}),
        ("vqgan_clip", {"prompts": text}),
        ("vqgan_clip", {"prompts": [text]}),
        ("vqgan_clip", {"prompts": [{"text": text}]}),
        ("unclip", {"prompts": [text]}),
        ("rank", {"images": ["img_" + "0" * 64], "prompt": text}),
        ("classify", {"images": ["img_" + "0" * 64], "labels": ["a", text]}),
        ("search", {"collection": "c", "text": text}),
    ]


@pytest.mark.parametrize("name", LONG_RUNS)
def test_long_texts_are_refused_before_they_are_normalised(caller: Caller, name: str) -> None:
    for kind, input_ in inputs(LONG_RUNS[name]):
        body = json.dumps({"kind": kind, "input": input_}, ensure_ascii=False)
        started_s = time.process_time()
        answer = caller.call("POST", "/v1/jobs", data=body.encode(), content_type="application/json")
        assert answer.status_code == 422, (kind, answer.json)
        assert answer.json["errors"][0]["field"].startswith("input."), answer.json
        assert time.process_time() - started_s < COST_S, kind


@pytest.mark.parametrize(
    "text", ["e\u0301" * 1_000, "\u1112\u1161\u11ab" * 1_000, "Zwei Ba\u0308nke", "a" * 1_000, "\u0c95\u0ccd\u0cb7"]
)
def test_texts_that_are_short_once_composed_are_taken(text: str) -> None:
    assert parse_spec("dalle", {"prompts": [text]})


def test_as_many_terms_as_allowed() -> None:
    assert len(parse_spec("vqgan_clip", {"prompts": "|".join("a" * 32)}).prompts) == 32


def paths(app: Flask) -> list[tuple[str, str]]:
    """Every route with something in its path, and a method of it."""
    found = []
    for rule in app.url_map.iter_rules():
        if rule.arguments and rule.rule.startswith("/v1/"):
            found += [(method, rule.rule) for method in sorted((rule.methods or set()) - {"OPTIONS"})]
    return found


@pytest.mark.parametrize("tail", ["%0A", "%0D%0A", "%00", "%E2%80%A8", "%0Ax"])
def test_an_id_with_a_line_end_is_nobodys(app: Flask, caller: Caller, store: JobStore, tenant: str, tail: str) -> None:
    job = caller.submit()
    ids = {
        "job_id": job["id"], "image_id": "img_" + "0" * 64, "name": "preview.png", "collection": "c", "kid": "0" * 12,
    }  # fmt: skip
    tried = 0
    for method, rule in paths(app):
        path = rule
        for argument in _arguments(rule):
            path = path.replace(f"<{argument}>", ids.get(argument.split(":")[-1], "x") + tail)
        body = {"json": {}} if method in {"POST", "PUT"} else {}
        answer = caller.call(method, path, **body)
        assert answer.status_code in {400, 404, 405, 415, 422}, (method, path, answer.status_code)
        tried += 1
    assert tried > 20
    assert [record.id for record in store.list_jobs(tenant).jobs] == [job["id"]]


def _arguments(rule: str) -> list[str]:
    return [part.split(">")[0] for part in rule.split("<")[1:]]


@pytest.mark.parametrize("tail", ["\n", "\r\n", "\u2028", " "])
def test_a_put_under_such_an_id_accepts_nothing(caller: Caller, store: JobStore, tenant: str, tail: str) -> None:
    body = {"kind": "probe", "input": {}}
    answer = caller.call("PUT", f"/v1/jobs/{uuid.uuid4()}{quote(tail)}", json=body)
    assert (answer.status_code, answer.json["errors"][0]["field"]) == (422, "job_id")
    assert not store.list_jobs(tenant).jobs
