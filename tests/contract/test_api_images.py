"""Pictures that come in: only whole PNG, JPEG and WebP within the limits."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from typing import Any

import pytest

from api.app import create_app
from shared.settings import Settings
from shared.store.jobs import JobStore
from tests.contract.test_api_admission import problem_of
from tests.support.api import Caller, new_key, picture


def huge_png(width: int, height: int) -> bytes:
    """A few hundred bytes that claim to be many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("form", "content_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")]
)
def test_upload_raw_and_fetch(caller: Caller, form: str, content_type: str) -> None:
    body = picture(size=(12, 9), form=form)
    answer = caller.call("POST", "/v1/images", data=body, content_type=content_type)
    assert answer.status_code == 201
    sha256 = hashlib.sha256(body).hexdigest()
    assert answer.json == {
        "id": f"img_{sha256}", "sha256": sha256, "bytes": len(body), "width": 12, "height": 9,
        "content_type": content_type, "url": f"/v1/images/img_{sha256}",
    }  # fmt: skip
    assert caller.get(answer.json["url"]).status_code == 302
    inline = caller.get(f"{answer.json['url']}?inline=1")
    assert (inline.data, inline.mimetype) == (body, content_type)
    assert caller.call("POST", "/v1/images", data=body, content_type=content_type).json["id"] == f"img_{sha256}"


def test_upload_as_a_form(caller: Caller) -> None:
    answer = caller.call("POST", "/v1/images", data={"image": (io.BytesIO(picture()), "../a.png")})
    assert answer.status_code == 201


def test_another_tenants_picture_looks_unknown(caller: Caller, stranger: Caller) -> None:
    image = caller.call("POST", "/v1/images", data=picture(), content_type="image/png").json
    for query in ("", "?inline=1"):
        problem_of(stranger.get(image["url"] + query), 404, "not_found")
        problem_of(stranger.get(f"/v1/images/img_{'0' * 64}{query}"), 404, "not_found")
    problem_of(caller.get("/v1/images/nothing"), 404, "not_found")


def gif() -> bytes:
    return picture(form="GIF")


@pytest.mark.parametrize(
    "body",
    [
        b"not a picture",
        b"",
        picture(size=(64, 64))[:-20],
        picture(size=(64, 64), form="JPEG")[:-200],
        picture(size=(64, 64), form="WEBP")[:-10],
        gif(),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        huge_png(20_000, 20_000),
        huge_png(9_000, 9_000),
        huge_png(100, 100),
        huge_png(0, 0),
    ],
    ids=[
        "text",
        "empty",
        "cut png",
        "cut jpeg",
        "cut webp",
        "gif",
        "svg",
        "bomb",
        "too many pixels",
        "lies",
        "no pixels",
    ],
)
def test_what_no_worker_could_read_is_refused(caller: Caller, body: bytes) -> None:
    answer = caller.call("POST", "/v1/images", data=body, content_type="image/png")
    document = problem_of(answer, 422, "invalid_input")
    assert document["errors"][0]["field"] == "image"


def test_sizes_and_types_have_limits(settings: Settings, store: JobStore, tenant: str) -> None:
    small = settings.model_copy(update={"image_max_bytes": 2048})
    caller = Caller(create_app(small).test_client(), new_key(store, tenant))
    noise: Any = bytes(range(256)) * 20
    problem_of(caller.call("POST", "/v1/images", data=noise, content_type="image/png"), 413, "body_too_large")
    problem_of(caller.call("POST", "/v1/images", data={"image": (io.BytesIO(noise), "a.png")}), 422, "invalid_input")
    problem_of(caller.call("POST", "/v1/images", data=b"x", content_type="text/plain"), 415, "unsupported_media_type")
    problem_of(
        caller.call("POST", "/v1/images", data={"other": "x"}, content_type="multipart/form-data"), 422, "invalid_input"
    )
