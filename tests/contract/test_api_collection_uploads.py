"""Pictures and archives sent to a collection: taken whole, or refused with nothing left behind."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.test import encode_multipart

from api.app import create_app
from shared.errors import StoreUnavailable
from shared.settings import Settings
from shared.storage import ObjectStore, s3_client
from shared.store.jobs import JobStore
from tests.contract.test_api_admission import problem_of
from tests.contract.test_api_collections import field_of, made
from tests.support.api import ApiServer, Caller, StandIn, new_key, picture
from tests.support.archives import Members, tarred, zipped
from tests.support.polling import PATIENCE_S

PATH = "/v1/collections/fruit/images"
RED, BLUE = picture("red"), picture("blue")


def special(name: str, type_: bytes, target: str = "") -> tarfile.TarInfo:
    """A link or a device."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = type_, target
    return entry


def flat_png(side: int) -> bytes:
    """A whole PNG of one colour: thousands of pixels a byte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" * (1 + (side + 7) // 8)  # one bit a pixel
    pack = zlib.compressobj(9)
    data = b"".join(pack.compress(row) for _ in range(side)) + pack.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


class Kept:
    """What a tenant's part of the object store holds."""

    def __init__(self, objects: ObjectStore, settings: Settings, tenant: str) -> None:
        self.objects, self.tenant = objects, tenant
        self._client = s3_client(settings, settings.s3_endpoint)

    def keys(self) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.objects.bucket, Prefix=f"{self.tenant}/"
        )
        return sorted(item["Key"] for page in pages for item in page.get("Contents", []))


@pytest.fixture
def kept(objects: ObjectStore, settings: Settings, tenant: str) -> Kept:
    """The caller's."""
    return Kept(objects, settings, tenant)


def post_form(caller: Caller, headers: dict[str, str] | None = None, **parts: Any) -> Any:
    """A multipart request; lists of (file name, body) become files."""
    values = MultiDict[str, Any]()
    for name, value in parts.items():
        for item in value if isinstance(value, list) else [value]:
            values.add(name, item if isinstance(item, str) else FileStorage(io.BytesIO(item[1]), item[0]))
    boundary, body = encode_multipart(values)
    return caller.call("POST", PATH, headers, data=body, content_type=f"multipart/form-data; boundary={boundary}")


def send(caller: Caller, body: bytes, content_type: str = "application/zip", path: str = PATH, **headers: str) -> Any:
    """An archive as the body itself."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return caller.call("POST", path, named, data=body, content_type=content_type)


# --- pictures ----------------------------------------------------------------------------------------------------


def test_pictures_are_stored_and_named_in_a_job(caller: Caller, kept: Kept, tenant: str) -> None:
    made(caller)
    metadata = json.dumps({"b.png": {"colour": "blue", "n": 2}})
    files = [("a.png", RED), ("b.png", BLUE)]
    answer = post_form(caller, {"Idempotency-Key": "k"}, image=files, metadata=metadata)
    assert answer.status_code == 202, answer.text
    red, blue = (hashlib.sha256(body).hexdigest() for body in (RED, BLUE))
    assert answer.json["input"]["images"] == [
        {"image": f"img_{red}", "url": None, "metadata": {}},
        {"image": f"img_{blue}", "url": None, "metadata": {"colour": "blue", "n": 2}},
    ]
    assert kept.keys() == sorted(f"{tenant}/images/{sha256}" for sha256 in (red, blue))
    assert caller.get(f"/v1/images/img_{red}?inline=1").data == RED
    images = [{"image": f"img_{red}", "metadata": {}}, {"image": f"img_{blue}", "metadata": {"colour": "blue", "n": 2}}]
    assert caller.count() == 1
    problem_of(caller.post(PATH, {"images": images[:1]}, Idempotency_Key="k"), 409, "conflict")


def test_one_file_is_enough_and_its_metadata_may_be_a_file(caller: Caller) -> None:
    made(caller)
    answer = post_form(caller, image=[("a.png", RED)], metadata=[("m.json", b'{"a.png": {"ok": true}}')])
    assert answer.status_code == 202, answer.text
    assert answer.json["input"]["images"][0]["metadata"] == {"ok": True}


BAD_PICTURES = {
    "a text": b"Once upon a time",
    "20,000 x 20,000": flat_png(20_000),
    "a cut JPEG": picture(size=(64, 64), form="JPEG")[:-200],
    "a cut PNG": picture(size=(64, 64))[:-20],
    "nothing": b"",
}


@pytest.mark.parametrize("body", BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_one_bad_file_refuses_the_form(caller: Caller, kept: Kept, body: bytes) -> None:
    made(caller)
    answer = post_form(caller, image=[("a.png", RED), ("b.png", BLUE), ("c.png", body)])
    assert field_of(answer) == "images.2"
    assert kept.keys() == []
    assert caller.count() == 0
    assert len(body) < 100_000


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({}, "image"),
        ({"metadata": "{}"}, "image"),
        ({"image": [("a.png", RED)], "archive": [("a.zip", zipped({"a.png": RED}))]}, "image"),
        ({"image": [("a.png", RED)], "other": [("b.png", BLUE)]}, "other"),
        ({"image": [("a.png", RED)], "metadata": "["}, "metadata"),
        ({"image": [("a.png", RED)], "metadata": "[" * 100_000}, "metadata"),
        ({"image": [("a.png", RED)], "metadata": "[]"}, "metadata"),
        ({"image": [("a.png", RED)], "metadata": '{"b.png": {}}'}, "metadata.b.png"),
        ({"image": [("a.png", RED), ("a.png", BLUE)], "metadata": '{"a.png": {}}'}, "metadata.a.png"),
        ({"image": [("a.png", RED)], "metadata": '{"a.png": {"Big": 1}}'}, "images.0.metadata.Big"),
        ({"image": [("a.png", RED)], "metadata": '{"a.png": 3}'}, "images.0.metadata"),
        ({"image": [("a.png", RED)], "metadata": json.dumps({"a.png": {"a": "x" * 1_000_000}})}, "images.0.metadata.a"),
        ({"image": [(f"{n}.png", RED) for n in range(201)]}, "image"),
        ({"archive": [("a.zip", zipped({"a.png": RED}))], "metadata": "{}"}, "metadata"),
    ],
)
def test_a_form_that_says_too_much_or_too_little(caller: Caller, kept: Kept, parts: Any, field: str) -> None:
    made(caller)
    answer = post_form(caller, **parts)
    assert field_of(answer).startswith(field)
    assert kept.keys() == []
    assert caller.count() == 0


def test_nothing_reaches_another_tenants_collection(caller: Caller, stranger: Caller, kept: Kept) -> None:
    made(stranger)
    problem_of(post_form(caller, image=[("a.png", RED)]), 404, "not_found")
    problem_of(send(caller, zipped({"a.png": RED})), 404, "not_found")
    assert kept.keys() == []
    assert caller.count() == 0


# --- archives ----------------------------------------------------------------------------------------------------


def zip64(directory_bytes: int = 0) -> bytes:
    """A zip with the records of a large one; its list of members may claim to be of another length."""
    body = zipped({"a.png": RED})
    at = body.rindex(b"PK\x05\x06")
    size, start = struct.unpack_from("<LL", body, at + 12)
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, directory_bytes or size, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    return body[:at] + record + locator + body[at:]


GOOD: dict[str, tuple[str, str, bytes]] = {
    "zip": ("application/zip", "zip", zipped({"a.png": RED, "b/c.png": BLUE})),
    "deflated zip": ("application/x-zip-compressed", "zip", zipped({"a.png": RED}, zipfile.ZIP_DEFLATED)),
    "tar": ("application/x-tar", "tar", tarred({"./a.png": RED, "./b/c.png": BLUE})),
    "tar.gz": ("application/gzip", "tar", gzip.compress(tarred({"a.png": RED}))),
    "zip64": ("application/zip", "zip", zip64()),
    "unsaid": ("application/octet-stream", "zip", zipped({"a.png": RED})),
    "with what macOS adds": (
        "application/zip",
        "zip",
        zipped({"a.png": RED, "__MACOSX/._a.png": b"x", ".DS_Store": b"y", "b/": b""}),
    ),
    "with a broken picture": ("application/zip", "zip", zipped({"a.png": b"text", "b.txt": b"more text"})),
    "long names": ("application/x-tar", "tar", tarred({"ä" * 60 + "/" + "n" * 150 + ".png": RED})),
    "csv": ("application/zip", "zip", zipped({"a.png": RED, "metadata.csv": b"file,colour\na.png,red\n"})),
    "json": ("application/x-tar", "tar", tarred({"./a.png": RED, "metadata.json": b'{"a.png": {"n": 1}}'})),
    "jsonl": (
        "application/zip",
        "zip",
        zipped({"a.png": RED, "metadata.jsonl": b'{"file": "a.png"}\n'}, zipfile.ZIP_DEFLATED),
    ),
    "a long table": (
        "application/x-tar",
        "tar",
        tarred({"a.png": RED, "metadata.jsonl": json.dumps({"file": "a.png"}).encode() + b"\n" * 3_000_000}),
    ),
}


@pytest.mark.parametrize(("content_type", "ending", "body"), GOOD.values(), ids=GOOD)
def test_an_archive_is_kept_for_its_job(
    caller: Caller, kept: Kept, objects: ObjectStore, tenant: str, content_type: str, ending: str, body: bytes
) -> None:
    made(caller)
    answer = send(caller, body, content_type)
    assert answer.status_code == 202, answer.text
    job = answer.json
    assert (job["kind"], job["input"]["archive"]) == ("index", f"{job['id']}/archive.{ending}")
    assert kept.keys() == [f"{tenant}/jobs/{job['id']}/input/archive.{ending}"]
    stored = objects.get(kept.keys()[0])
    assert stored == (gzip.decompress(body) if content_type == "application/gzip" else body)
    assert objects.head(kept.keys()[0]).sha256 == hashlib.sha256(stored).hexdigest()


def test_an_archive_may_come_in_a_form_and_is_read_again_by_a_retry(caller: Caller, worker: StandIn) -> None:
    made(caller)
    answer = post_form(caller, archive=[("x.zip", zipped({"a.png": RED}))])
    assert answer.status_code == 202, answer.text
    worker.finish(worker.claim(answer.json["id"]), added=1)
    again = caller.post(f"/v1/jobs/{answer.json['id']}/retry")
    assert (again.status_code, again.json["input"]["archive"]) == (202, answer.json["input"]["archive"])


def test_the_same_archive_under_the_same_key_is_kept_once(caller: Caller, kept: Kept) -> None:
    made(caller)
    body = zipped({"a.png": RED})
    first = send(caller, body, Idempotency_Key="k")
    again = send(caller, body, Idempotency_Key="k")
    assert again.json["id"] == first.json["id"]
    assert again.headers["Idempotent-Replayed"] == "true"
    problem_of(send(caller, zipped({"b.png": BLUE}), Idempotency_Key="k"), 409, "conflict")
    assert len(kept.keys()) == 1
    assert caller.count() == 1


def encrypted() -> bytes:
    """Only the flag: that is all the door looks at."""
    body = bytearray(zipped({"a.png": RED}))
    body[6] |= 1
    body[body.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(body)


def lying_over_each_other() -> bytes:
    """Two members that share their bytes."""
    body = zipped({"a.png": b"\1" * 5_000, "b.png": b"\2" * 5_000})
    at = body.rindex(b"PK\x01\x02")
    patched = bytearray(body)
    struct.pack_into("<L", patched, at + 20, 9_000)
    struct.pack_into("<L", patched, at + 24, 9_000)
    return bytes(patched)


def linked() -> bytes:
    """A zip whose member is a symbolic link."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        entry = zipfile.ZipInfo("a.png")
        entry.create_system, entry.external_attr = 3, 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    return file.getvalue()


def twice() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("a.png", "./a.png"):
            entry = tarfile.TarInfo(name)
            entry.size = len(RED)
            archive.addfile(entry, io.BytesIO(RED))
    return file.getvalue()


def many(count: int) -> bytes:
    return zipped({f"{number:05d}.png": b"x" for number in range(count)})


def with_attributes(records: bytes) -> bytes:
    """A tar whose first member has these pax records."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = b"x", len(records)
    padded = records + b"\0" * (-len(records) % 512)
    return header.tobuf(tarfile.USTAR_FORMAT) + padded + tarred({"a.png": RED})


BAD_ARCHIVES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "a text": lambda: b"Once upon a time, " * 100,
    "a picture": lambda: RED,
    "a cut zip": lambda: zipped({"a.png": RED})[:-30],
    "a cut tar": lambda: tarred({"a.png": RED * 10})[:700],
    "a cut gzip": lambda: gzip.compress(tarred({"a.png": RED}))[:-20],
    "gzip of text": lambda: gzip.compress(b"no tar"),
    "gzip of zip": lambda: gzip.compress(zipped({"a.png": RED})),
    "an empty zip": lambda: zipped({}),
    "an empty tar": lambda: tarred({}),
    "folders only": lambda: zipped({"a/": b"", "a/b/": b""}),
    "hidden only": lambda: zipped({".a.png": RED}),
    "a way up": lambda: zipped({"../a.png": RED}),
    "a way up within": lambda: zipped({"a/../../b.png": RED}),
    "a way up in a tar": lambda: tarred({"../../a.png": RED}),
    "a way up, hidden": lambda: zipped({"good.png": RED, "__MACOSX/../../a.png": RED}),
    "absolute": lambda: tarred({"/etc/a.png": RED}),
    "a drive": lambda: zipped({"C:/a.png": RED}),
    "backslashes": lambda: zipped({"..\\a.png": RED}),
    "a control character": lambda: zipped({"a\n.png": RED}),
    "an endless name": lambda: tarred({"a" * 600: RED}),
    "a symbolic link": linked,
    "a symbolic link in a tar": lambda: tarred({"b.png": RED}, special("a.png", tarfile.SYMTYPE, "/etc/passwd")),
    "a hard link": lambda: tarred({"b.png": RED}, special("a.png", tarfile.LNKTYPE, "b.png")),
    "a device": lambda: tarred({"b.png": RED}, special("a.png", tarfile.CHRTYPE)),
    "a pipe": lambda: tarred({"b.png": RED}, special("a.png", tarfile.FIFOTYPE)),
    "holes": lambda: tarred({"b.png": RED}, special("a.png", tarfile.GNUTYPE_SPARSE)),
    "holes by attributes": lambda: with_attributes(b"22 GNU.sparse.major=1\n"),
    "attributes without end": lambda: with_attributes(b"1 " * 30_000),
    "attributes of digits": lambda: with_attributes(b"60011 a=" + b"1" * 60_002 + b"\n"),
    "huge attributes": lambda: with_attributes(b"200011 comment=" + b"x" * 199_995 + b"\n"),
    "a list of members without end": lambda: zip64(2**40),
    "encrypted": encrypted,
    "one name twice": twice,
    "members over each other": lying_over_each_other,
    "a bomb": lambda: zipped({"a.png": b"\0" * 9_000_000}, zipfile.ZIP_DEFLATED),
    "a bomb of many": lambda: zipped({f"{n}.png": b"\0" * 1_000_000 for n in range(50)}, zipfile.ZIP_DEFLATED),
    "a gzip bomb": lambda: gzip.compress(b"\0" * 40_000_000),
    "a picture too large": lambda: tarred({"a.png": b"\1" * (10 * 2**20 + 1)}),
    "unusual packing": lambda: zipped({"a.png": RED}, zipfile.ZIP_LZMA),
    "too many": lambda: many(10_001),
    "far too many": lambda: many(60_000),
}


@pytest.mark.parametrize("name", BAD_ARCHIVES)
def test_a_bad_archive_is_refused_and_leaves_nothing(
    settings: Settings, store: JobStore, tenant: str, pool: str, kept: Kept, name: str
) -> None:
    app = create_app(settings.model_copy(update={"pool": pool, "archive_max_bytes": 32 * 2**20}))
    caller = Caller(app.test_client(), new_key(store, tenant))
    made(caller)
    body = BAD_ARCHIVES[name]()
    for answer in (send(caller, body), post_form(caller, archive=[("a.zip", body)])):
        assert field_of(answer) == "archive", answer.text
    assert kept.keys() == []
    assert caller.count() == 0


BAD_TABLES: dict[str, tuple[Members, str]] = {
    "no column file": ({"metadata.csv": b"name\na.png\n"}, "metadata.csv"),
    "no UTF-8": ({"metadata.csv": b"file,a\na.png,\xff\n"}, "metadata.csv"),
    "no JSON": ({"metadata.json": b"{"}, "metadata.json"),
    "too deep": ({"metadata.json": b"[" * 100_000}, "metadata.json"),
    "a field's name": ({"metadata.csv": b"file,Colour\na.png,red\n"}, "metadata.csv.a.png.Colour"),
    "a value": ({"metadata.json": b'{"a.png": {"colour": ["red"]}}'}, "metadata.json.a.png.colour"),
    "no such file": ({"metadata.jsonl": b'{"file": "z.png"}'}, "metadata.jsonl.z.png"),
    "a long value": ({"metadata.csv": b"file,a\na.png," + b"x" * 1_001}, "metadata.csv.a.png.a"),
    "1 MB": ({"metadata.jsonl": b'{"file": "a.png", "a": "' + b"x" * 1_000_000 + b'"}'}, "metadata.jsonl.a.png.a"),
    "9 MiB": ({"metadata.json": b" " * (9 * 2**20) + b"{}"}, "archive"),
    "two tables": ({"metadata.json": b"{}", "metadata.csv": b"file\n"}, "archive"),
}


@pytest.mark.parametrize(("table", "field"), BAD_TABLES.values(), ids=BAD_TABLES)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_bad_metadata_table_is_refused_and_leaves_nothing(
    caller: Caller, kept: Kept, pack: Callable[[Members], bytes], table: Members, field: str
) -> None:
    made(caller)
    assert field_of(send(caller, pack({"a.png": RED, **table}))) == field
    assert kept.keys() == []
    assert caller.count() == 0


def test_bodies_have_limits(settings: Settings, store: JobStore, tenant: str, pool: str, kept: Kept) -> None:
    app = create_app(settings.model_copy(update={"pool": pool, "archive_max_bytes": 4_096}))
    caller = Caller(app.test_client(), new_key(store, tenant))
    made(caller)
    problem_of(send(caller, zipped({"a.png": b"x" * 5_000})), 413, "body_too_large")
    problem_of(send(caller, b"x", "text/plain"), 415, "unsupported_media_type")
    problem_of(caller.post(PATH, {"images": [{"image": "x" * 2**20}]}), 413, "body_too_large")
    assert kept.keys() == []


@pytest.mark.parametrize("sent", ["raw", "form"])
def test_an_archive_goes_when_its_job_is_refused(
    settings: Settings, store: JobStore, tenant: str, pool: str, kept: Kept, sent: str
) -> None:
    app = create_app(settings.model_copy(update={"pool": pool, "max_queued_per_tenant": 1}))
    caller = Caller(app.test_client(), new_key(store, tenant))
    made(caller)
    caller.submit()
    body = zipped({"a.png": RED})
    answer = send(caller, body) if sent == "raw" else post_form(caller, archive=[("a.zip", body)])
    problem_of(answer, 429, "queue_full")
    assert kept.keys() == []


def test_an_archive_stays_only_where_its_job_may_have_been_accepted(
    app: Flask, caller: Caller, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(caller)
    submit = JobStore.submit

    def unanswered(store: JobStore, job: Any) -> Any:
        submit(store, job)
        raise StoreUnavailable("the job store does not answer")

    def refused(store: JobStore, job: Any) -> Any:
        raise StoreUnavailable("the job store is full")

    monkeypatch.setattr(JobStore, "submit", refused)
    problem_of(send(caller, zipped({"a.png": RED})), 503, "store_unavailable")
    assert kept.keys() == []
    monkeypatch.setattr(JobStore, "submit", unanswered)
    problem_of(send(caller, zipped({"a.png": RED})), 503, "store_unavailable")
    assert len(kept.keys()) == 1
    assert caller.count() == 1


def test_an_archive_may_come_in_chunks(
    settings: Settings, objects: ObjectStore, store: JobStore, tenant: str, pool: str, kept: Kept, tmp_path: Path
) -> None:
    """Over a socket, without a Content-Length; one that is cut off is no archive, one that goes on is too long."""
    limited = settings.model_copy(update={"pool": pool, "archive_max_bytes": 2 * 2**20})
    body = zipped({f"{number}.png": RED + bytes(range(256)) * 100 for number in range(50)})
    key = new_key(store, tenant)

    def pieces(whole: bytes) -> Iterator[bytes]:
        for at in range(0, len(whole), 100_000):
            yield whole[at : at + 100_000]

    server = ApiServer(limited, tmp_path, processes=1)
    try:
        with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE_S) as http:
            assert http.post("/v1/collections", json={"name": "fruit"}).status_code == 201

            def sent(content: bytes, content_type: str = "application/zip") -> int:
                return http.post(PATH, content=pieces(content), headers={"Content-Type": content_type}).status_code

            assert sent(body) == 202
            assert objects.get(kept.keys()[0]) == body
            boundary, form = encode_multipart(MultiDict([("archive", FileStorage(io.BytesIO(body), "a.zip"))]))
            assert sent(form, f"multipart/form-data; boundary={boundary}") == 202
            assert sent(body[:-100]) == 422
            assert sent(b"x" * (2 * 2**20 + 1_000)) == 413
            assert len(kept.keys()) == 2
    finally:
        server.process.stop()
