"""A real worker keeps collections: real pictures, the shipped CLIP, a real index on disk."""

from __future__ import annotations

import csv
import io
import json
import shutil
import threading
import uuid
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shared.records.collection import Collection
from shared.records.job import JobRecord, JobState, NewJob
from shared.settings import Settings
from shared.storage import ObjectStore, image_key, input_key
from shared.store.collections import CollectionStore
from shared.store.jobs import JobStore
from tests.integration.test_worker_pictures import upload
from tests.support.polling import eventually
from tests.support.tiny_models import write_tiny_models
from tests.support.workers import Worker, submit, until
from worker.checkpoints.registry import EMBEDDED
from worker.collections.access import CollectionAccess
from worker.executor.follow_up import follow_up_of
from worker.maintenance.index_compactor import IndexCompactor
from worker.transfer.inputs import Inputs

pytestmark = [pytest.mark.integration, pytest.mark.slow]

POOL = "collections"
KINDS = "search,index,remove,reembed,duplicates,group,classify,rank"
NAMES = (
    "rocket", "cactus", "guitar", "bicycle", "snowman", "octopus", "rainbow", "umbrella", "cat face", "mushroom",
)  # fmt: skip


@pytest.fixture(scope="module")
def own(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A pool and an index for this file."""
    vectors, weights = tmp_path_factory.mktemp("vectors"), tmp_path_factory.mktemp("weights")
    write_tiny_models(weights)
    rows = {row["id"]: row for row in json.loads((weights / "registry.json").read_text())["models"]}
    shipped = json.loads(EMBEDDED.read_text())["models"][0]
    shipped |= {name: str(EMBEDDED.parent / shipped[name]) for name in ("folder", "tokenizer")}
    models = [shipped, rows["emoji-clip"] | {"id": "tiny-clip"}]
    (weights / "registry.json").write_text(json.dumps({"models": models}))
    return settings.model_copy(
        update={
            "pool": POOL,
            "kinds": KINDS,
            "vectors_url": str(vectors),
            "cpu_threads": 1,
            "device": "cpu",
            "fetch_hosts": "127.0.0.1",
            "weights_dir": str(weights),
        }
    )


@pytest.fixture(scope="module")
def worker(
    own: Settings, store: JobStore, objects: ObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    worker = Worker(own, store, tmp_path_factory.mktemp("worker"))
    yield worker
    assert worker.stop() == 0, worker.log
    assert "Traceback" not in worker.log


@pytest.fixture(autouse=True)
def _running(worker: Worker) -> None:
    """Every test here needs it."""


@pytest.fixture(scope="module")
def emoji() -> dict[str, Image.Image]:
    """Pictures of NAMES by name."""
    archive = zipfile.ZipFile(io.BytesIO((resources.files("deploy") / "pictures" / "openmoji.zip").read_bytes()))
    rows = csv.DictReader(io.StringIO(archive.read("metadata.csv").decode()))
    files = {row["name"]: row["file"] for row in rows}
    return {name: Image.open(io.BytesIO(archive.read(files[name]))).convert("RGB") for name in NAMES}


@pytest.fixture
def collections(store: JobStore, own: Settings) -> CollectionStore:
    return CollectionStore(store.redis, own)


@pytest.fixture
def collection(collections: CollectionStore, tenant: str) -> Collection:
    return collections.create(tenant, "c", "emoji-clip")[0]


def run(store: JobStore, tenant: str, kind: str, **spec: object) -> JobRecord:
    return until(store, tenant, submit(store, tenant, POOL, kind=kind, **spec))


def result(store: JobStore, tenant: str, kind: str, **spec: object) -> dict[str, Any]:
    record = run(store, tenant, kind, **spec)
    assert record.state is JobState.SUCCEEDED, record.error
    assert record.result is not None
    return record.result


def items(objects: ObjectStore, tenant: str, emoji: dict[str, Image.Image]) -> list[dict[str, Any]]:
    return [
        {
            "image": upload(objects, tenant, image),
            "metadata": {"name": name, "size": 10.0 + number, "odd": number % 2 == 1},
        }
        for number, (name, image) in enumerate(emoji.items())
    ]


@pytest.fixture
def filled(
    store: JobStore, objects: ObjectStore, tenant: str, emoji: dict[str, Image.Image], collection: Collection
) -> list[dict[str, Any]]:
    """What is in the collection."""
    given = items(objects, tenant, emoji)
    assert result(store, tenant, "index", collection="c", images=given)["added"] == len(given)
    return given


def found(store: JobStore, tenant: str, **spec: object) -> list[str]:
    hits = result(store, tenant, "search", collection="c", **spec)["hits"]
    return [hit["metadata"].get("name") for hit in hits]


def test_what_was_indexed_is_found_by_its_name(
    store: JobStore, collections: CollectionStore, tenant: str, filled: list[dict[str, Any]]
) -> None:
    right = sum(found(store, tenant, text=name, limit=1) == [name] for name in NAMES)
    assert right >= len(NAMES) - 1  # the model is not perfect
    answer = result(store, tenant, "search", collection="c", text="a rocket", limit=3)
    hit = answer["hits"][0]
    assert (answer["rows"], answer["matching"], answer["model"]) == (len(NAMES), len(NAMES), "emoji-clip")
    assert hit["metadata"] == {"name": "rocket", "size": 10.0, "odd": False}
    assert -1 <= answer["hits"][1]["cosine"] < hit["cosine"] <= 1
    assert 0 < answer["hits"][1]["score"] < hit["score"] < 1
    known = collections.get(tenant, "c")
    assert (known.rows, known.width, known.fields) == (
        len(NAMES),
        128,
        {"name": "string", "size": "number", "odd": "boolean"},
    )


def test_terms_filters_and_cuts(store: JobStore, tenant: str, filled: list[dict[str, Any]]) -> None:
    rocket = filled[0]["image"]
    assert found(store, tenant, image=rocket, limit=1) == ["rocket"]
    assert found(store, tenant, terms=[{"id": rocket}], limit=1) == ["rocket"]
    both = found(store, tenant, terms=[{"id": rocket}, {"id": filled[2]["image"]}], limit=2)
    assert set(both) == {"rocket", "guitar"}
    without = found(
        store, tenant, terms=[{"id": rocket}, {"id": filled[2]["image"]}, {"text": "rocket", "weight": -1.0}], limit=1
    )
    assert without == ["guitar"]
    odd = {"field": "odd", "eq": True}
    assert "rocket" not in found(store, tenant, text="rocket", filter=odd)
    assert len(found(store, tenant, text="rocket", filter=odd)) == 5
    large = {"and": [{"not": odd}, {"field": "size", "gte": 14.0}]}
    assert set(found(store, tenant, text="x", filter=large)) == {NAMES[4], NAMES[6], NAMES[8]}
    first = result(store, tenant, "search", collection="c", text="fruit", limit=6)
    second = result(store, tenant, "search", collection="c", text="fruit", limit=6, cursor=first["next_cursor"])
    names = [hit["metadata"]["name"] for hit in first["hits"] + second["hits"]]
    assert sorted(names) == sorted(NAMES)
    assert second["next_cursor"] is None
    least = first["hits"][2]["score"]
    assert len(result(store, tenant, "search", collection="c", text="fruit", min_score=least)["hits"]) == 3


def test_a_search_that_says_nothing_is_told_so(store: JobStore, tenant: str, filled: list[dict[str, Any]]) -> None:
    for terms, message in (
        ([{"text": "cat"}, {"text": "cat", "weight": -1.0}], "cancel each other"),
        ([{"embedding": [1.0, 2.0]}], "an embedding has 2 numbers"),
        ([{"id": "img_" + "0" * 64}], "has no picture"),
    ):
        record = run(store, tenant, "search", collection="c", terms=terms)
        assert (record.state, record.error and record.error["code"]) == (JobState.FAILED, "invalid_input")
        assert message in str(record.error)


def test_again_changes_nothing_and_new_metadata_is_taken(
    store: JobStore, objects: ObjectStore, tenant: str, filled: list[dict[str, Any]]
) -> None:
    again = result(store, tenant, "index", collection="c", images=[*filled, filled[0]])
    assert (again["added"], again["updated"], again["unchanged"], again["total"]) == (0, 0, 11, 11)
    changed = {"image": filled[0]["image"], "metadata": {"name": "spaceship", "size": 1.0}}
    assert result(store, tenant, "index", collection="c", images=[changed])["updated"] == 1
    hit = result(store, tenant, "search", collection="c", terms=[{"id": filled[0]["image"]}], limit=1)["hits"][0]
    assert hit["metadata"] == {"name": "spaceship", "size": 1.0}


def test_a_bad_picture_is_its_own_error(
    store: JobStore, objects: ObjectStore, tenant: str, emoji: dict[str, Image.Image], collection: Collection
) -> None:
    given = items(objects, tenant, emoji)[:2]
    objects.put(image_key(tenant, "1" * 64), b"not a picture", "image/png")
    given += [
        {"image": "img_" + "1" * 64},
        {"image": "img_" + "2" * 64},
        {"image": upload(objects, tenant, emoji["guitar"]), "metadata": {"size": "large"}},
    ]
    record = run(store, tenant, "index", collection="c", images=given)
    assert record.state is JobState.SUCCEEDED
    assert record.result is not None
    assert (record.result["added"], record.result["failed"]) == (2, 3)
    assert {error["item"]: error["code"] for error in record.result["errors"]} == {
        "images.2": "unreadable_image",
        "images.3": "unreadable_image",
        "images.4": "invalid_input",
    }
    table = record.artifact("errors.csv")
    assert table is not None
    lines = list(csv.DictReader(io.StringIO(objects.get(table["key"]).decode())))
    assert [line["item"] for line in lines] == ["images.2", "images.3", "images.4"]


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_an_archive_with_a_table(
    store: JobStore,
    objects: ObjectStore,
    tenant: str,
    emoji: dict[str, Image.Image],
    collection: Collection,
    form: str,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "in" / "sub"
    folder.mkdir(parents=True)
    for name, image in emoji.items():
        image.save(folder / f"{name}.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"text")
    (tmp_path / "in" / "README.txt").write_text("nothing")
    table = "file,name\n" + "".join(f"sub/{name}.png,{name}\n" for name in NAMES)
    (tmp_path / "in" / "metadata.csv").write_text(table)
    made = shutil.make_archive(str(tmp_path / "a"), form, tmp_path / "in")
    job_id = str(uuid.uuid4())
    ref = f"{job_id}/archive.{form}"
    objects.put(input_key(tenant, ref), Path(made).read_bytes(), "application/octet-stream")
    spec = {"kind": "index", "collection": "c", "archive": ref}
    store.submit(NewJob(id=job_id, tenant=tenant, kind="index", pool=POOL, spec=spec))
    record = until(store, tenant, job_id)
    assert record.result is not None, record.error
    assert (record.result["added"], record.result["failed"], record.result["total"]) == (len(NAMES), 1, len(NAMES) + 1)
    assert record.result["errors"][0]["item"] == "broken.png"
    hits = result(store, tenant, "search", collection="c", text="rocket", limit=1)["hits"]
    assert hits[0]["metadata"]["name"] == "rocket"
    assert objects.head(image_key(tenant, hits[0]["id"].removeprefix("img_"))).content_type == "image/png"


def test_pictures_by_address(
    store: JobStore, tenant: str, emoji: dict[str, Image.Image], collection: Collection
) -> None:
    buffer = io.BytesIO()
    emoji["guitar"].save(buffer, "PNG")

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(buffer.getvalue())

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        urls = [f"http://127.0.0.1:{server.server_port}/p.png", f"http://localhost:{server.server_port}/p.png"]
        images = [{"url": url, "metadata": {"name": "guitar"}} for url in urls]
        answer = result(store, tenant, "index", collection="c", images=images)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert (answer["added"], answer["failed"]) == (1, 1)
    assert "not a public" in answer["errors"][0]["message"]


def test_removing_by_id_and_by_filter(
    store: JobStore, collections: CollectionStore, tenant: str, filled: list[dict[str, Any]]
) -> None:
    ids = [filled[0]["image"], "img_" + "0" * 64]
    assert result(store, tenant, "remove", collection="c", ids=ids)["removed"] == 1
    assert "rocket" not in found(store, tenant, text="rocket")
    assert result(store, tenant, "remove", collection="c", filter={"field": "odd", "eq": True})["removed"] == 5
    assert collections.get(tenant, "c").rows == 4
    assert len(found(store, tenant, text="anything")) == 4


def test_alike_and_grouped(
    store: JobStore, objects: ObjectStore, tenant: str, emoji: dict[str, Image.Image], filled: list[dict[str, Any]]
) -> None:
    nearly = emoji["rocket"].copy()
    nearly.putpixel((0, 0), (250, 250, 250))
    near_id = upload(objects, tenant, nearly)
    result(store, tenant, "index", collection="c", images=[{"image": near_id}])
    record = run(store, tenant, "duplicates", collection="c", threshold=0.99)
    assert record.result is not None
    assert [set(ids) for ids in record.result["sets"]] == [{near_id, filled[0]["image"]}]
    file = record.artifact("duplicates.json")
    assert file is not None
    assert json.loads(objects.get(file["key"])) == record.result["sets"]
    grouped = result(store, tenant, "group", collection="c", k=3, labels=list(NAMES))
    assert sum(group["size"] for group in grouped["groups"]) == len(NAMES) + 1
    assert {group["name"] for group in grouped["groups"]} <= set(NAMES)
    assert len(found(store, tenant, text="rocket", dedup=0.99, limit=20)) == len(NAMES)  # one of the two rockets


def test_a_collection_is_classified_by_the_vectors_it_holds(
    store: JobStore, objects: ObjectStore, tenant: str, filled: list[dict[str, Any]]
) -> None:
    record = run(store, tenant, "classify", collection="c", labels=list(NAMES), templates="imagenet_7")
    assert record.result is not None, record.error
    ids = {item["image"]: item["metadata"]["name"] for item in filled}
    right = sum(ids[item["image"]] == item["label"] for item in record.result["classifications"])
    assert right >= len(NAMES) - 2
    assert sum(record.result["counts"].values()) == len(NAMES)
    file = record.artifact("classifications.csv")
    assert file is not None
    assert len(list(csv.DictReader(io.StringIO(objects.get(file["key"]).decode())))) == len(NAMES)
    unsure = result(store, tenant, "classify", collection="c", labels=list(NAMES), other_below=0.999999)
    assert unsure["counts"].get("other", 0) > 0


def test_pictures_are_ranked_by_many_prompts(
    store: JobStore, objects: ObjectStore, tenant: str, emoji: dict[str, Image.Image]
) -> None:
    refs = {name: upload(objects, tenant, emoji[name]) for name in ("rocket", "cactus", "guitar")}
    answer = result(store, tenant, "rank", images=list(refs.values()), prompts=["a rocket", "a cactus"])
    assert [ranking["prompt"] for ranking in answer["rankings"]] == ["a rocket", "a cactus"]
    assert [ranking["order"][0] for ranking in answer["rankings"]] == [refs["rocket"], refs["cactus"]]
    chances = [ranking["scores"][0]["probability"] for ranking in answer["rankings"]]
    assert sum(chances) == pytest.approx(1, abs=1e-5)


def test_the_pictures_of_a_job_follow_into_generated(
    store: JobStore, objects: ObjectStore, collections: CollectionStore, tenant: str, emoji: dict[str, Image.Image]
) -> None:
    """The commit of a generator's job accepts the index job; here a stand-in commits, the worker indexes."""
    spec = {"kind": "dalle", "prompts": ["a rocket"], "collect": True}
    made = NewJob(id=str(uuid.uuid4()), tenant=tenant, kind="dalle", pool="elsewhere-" + tenant, spec=spec)
    store.submit(made)
    claim = store.claim(made.pool, "stand-in")
    assert claim is not None
    buffer = io.BytesIO()
    emoji["rocket"].save(buffer, "PNG")
    key = f"{tenant}/jobs/{made.id}/a1/000.png"
    stored = objects.put(key, buffer.getvalue(), "image/png")
    image = {"name": "000.png", "key": key, "bytes": stored.bytes, "sha256": stored.sha256, "prompt": "a rocket",
             "seed": 7, "index": 0, "score": 0.5, "width": 64, "height": 64}  # fmt: skip
    follow_up = follow_up_of(claim, POOL)
    assert follow_up is not None
    store.commit(claim, {"images": [image], "models": [{"id": "emoji-dalle"}]}, {}, follow_up=follow_up)
    until(store, tenant, follow_up.id, "succeeded")
    hit = result(store, tenant, "search", collection="generated", text="rocket")["hits"][0]
    assert hit["id"] == f"img_{stored.sha256}"
    assert hit["metadata"] == {
        "prompt": "a rocket",
        "kind": "dalle",
        "model": "emoji-dalle",
        "job": made.id,
        "seed": 7.0,
        "index": 0.0,
        "score": 0.5,
    }


def test_another_model_takes_over_whole(
    store: JobStore,
    objects: ObjectStore,
    collections: CollectionStore,
    tenant: str,
    filled: list[dict[str, Any]],
    emoji: dict[str, Image.Image],
) -> None:
    before = collections.get(tenant, "c")
    assert result(store, tenant, "reembed", collection="c", model="tiny-clip")["rows"] == len(NAMES)
    after = collections.get(tenant, "c")
    assert (after.model, after.rows, after.id) == ("tiny-clip", len(NAMES), before.id)
    assert after.table != before.table
    assert (after.width, after.fingerprint) != (before.width, before.fingerprint)
    assert before.table in collections.dropped(-1)
    hit = result(store, tenant, "search", collection="c", image=filled[0]["image"], limit=1)["hits"][0]
    assert hit["id"] == filled[0]["image"]
    assert hit["cosine"] == pytest.approx(1, abs=1e-4)
    assert hit["metadata"] == filled[0]["metadata"]
    again = result(store, tenant, "reembed", collection="c", model="tiny-clip")  # builds its table anew
    assert again["rows"] == len(NAMES)
    assert collections.get(tenant, "c").table != after.table
    back = result(store, tenant, "reembed", collection="c", model="emoji-clip")
    assert back["rows"] == len(NAMES)
    assert found(store, tenant, text="rocket", limit=1) == ["rocket"]
    more = {"image": upload(objects, tenant, emoji["rocket"].rotate(90)), "metadata": {"name": "turned"}}
    assert result(store, tenant, "index", collection="c", images=[more])["added"] == 1


def test_vectors_of_other_weights_are_never_met(
    store: JobStore, collections: CollectionStore, tenant: str, filled: list[dict[str, Any]]
) -> None:
    store.redis.hset(f"dq:collection:{tenant}:c", "fingerprint", "0" * 64)
    for kind, spec in (("search", {"text": "x"}), ("index", {"images": filled}), ("classify", {"labels": ["a", "b"]})):
        record = run(store, tenant, kind, collection="c", **spec)
        assert (record.state, record.error and record.error["code"]) == (JobState.FAILED, "conflict"), kind
        assert "re-embed it" in str(record.error)


def test_the_index_is_compacted_and_dropped_from(
    store: JobStore,
    own: Settings,
    objects: ObjectStore,
    collections: CollectionStore,
    tenant: str,
    filled: list[dict[str, Any]],
    emoji: dict[str, Image.Image],
) -> None:
    for turn in range(5):
        image = upload(objects, tenant, emoji["rocket"].rotate(10 + turn))
        result(store, tenant, "index", collection="c", images=[{"image": image}])
    record = collections.get(tenant, "c")
    folder = Path(own.vectors_url) / f"{record.table}.lance" / "data"
    scattered = len(list(folder.iterdir()))
    with ThreadPoolExecutor(2) as threads:
        inputs = Inputs(store, objects, threads, max_pixels=own.image_max_pixels, patience_s=own.upload_patience_s)
        access = CollectionAccess(store, objects, inputs, own)
        compactor = IndexCompactor(access, own.search_ann_rows)
        assert compactor.compact(-1) >= 1
        assert access.tables.of(record).count() == record.rows
        held = access.caches.of(record.table, access.tables.of(record), record.columns, record.changes)
        assert held is not None
        assert held.rows == record.rows
        assert access.staleness_s() == 0
        collections.note(record, version=record.version, rows=record.rows, bytes_=record.bytes)
        eventually(lambda: access.staleness_s() > 0, what="a change that is not taken in")
        assert len(list(folder.iterdir())) != scattered  # one file was made of them; the old ones go after an hour
        collections.delete(tenant, "c")
        assert record.table in access.tables.database.tables()
        assert compactor.drop(3_600) == 0
        assert compactor.drop(-1) >= 1
        assert record.table not in access.tables.database.tables()
        assert record.table not in collections.dropped(-1)


def test_a_deleted_collection_is_not_searched(
    store: JobStore, collections: CollectionStore, tenant: str, filled: list[dict[str, Any]]
) -> None:
    collections.delete(tenant, "c")
    record = run(store, tenant, "search", collection="c", text="x")
    assert record.error is not None
    assert record.error["code"] == "not_found"


def test_a_worker_killed_in_mid_job_leaves_each_picture_once(
    store: JobStore,
    own: Settings,
    objects: ObjectStore,
    collections: CollectionStore,
    tenant: str,
    tmp_path: Path,
    collection: Collection,
) -> None:
    images = [Image.new("RGB", (64, 64), (number % 256, number // 256 * 40, 90)) for number in range(400)]
    given = [
        {"image": upload(objects, tenant, image), "metadata": {"number": float(number)}}
        for number, image in enumerate(images)
    ]
    slow = own.model_copy(update={"pool": f"kill-{tenant}"})
    job_id = submit(store, tenant, slow.pool, kind="index", collection="c", images=given)
    victim = Worker(slow, store, tmp_path)
    eventually(lambda: collections.get(tenant, "c").rows > 0, what="rows")
    victim.kill()
    last = Worker(slow, store, tmp_path)
    try:
        record = until(store, tenant, job_id)
    finally:
        last.stop()
    assert record.state is JobState.SUCCEEDED, record.error
    assert record.result is not None
    assert record.result["added"] + record.result["unchanged"] == 400
    assert collections.get(tenant, "c").rows == 400
    seen: set[float] = set()
    cursor = None
    while True:
        page = result(store, tenant, "search", collection="c", text="x", limit=500, cursor=cursor)
        numbers = [hit["metadata"]["number"] for hit in page["hits"]]
        assert not seen & set(numbers)
        seen |= set(numbers)
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == 400
