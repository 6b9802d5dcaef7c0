"""A real worker process with tiny models makes real pictures, stores them, and reads them again."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator

import pytest
from PIL import Image

from shared.records.job import JobRecord, JobState
from shared.settings import Settings
from shared.specs.kinds import parse_spec
from shared.storage import ObjectStore, image_key
from shared.store.events import EventLog
from shared.store.jobs import JobStore
from tests.support.tiny_models import write_tiny_models
from tests.support.workers import Worker, submit, until
from worker.executor.local_run import LocalContext, run_here

pytestmark = [pytest.mark.integration, pytest.mark.slow]

POOL = "pictures"


@pytest.fixture(scope="module")
def own(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Of this file's worker."""
    return settings.model_copy(
        update={
            "pool": POOL,
            "weights_dir": str(write_tiny_models(tmp_path_factory.mktemp("weights"))),
            "device": "cpu",
            "cpu_threads": 1,
            "image_max_pixels": 10_000,
        }
    )


@pytest.fixture(scope="module")
def worker(own: Settings, store: JobStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One worker of every kind for this file."""
    worker = Worker(own, store, tmp_path_factory.mktemp("worker"))
    yield worker
    assert worker.stop() == 0, worker.log
    assert "Traceback" not in worker.log


@pytest.fixture(autouse=True)
def _running(worker: Worker) -> None:
    """Every test here needs it."""


def upload(objects: ObjectStore, tenant: str, image: Image.Image, form: str = "PNG") -> str:
    """What POST /v1/images does; the reference."""
    buffer = io.BytesIO()
    image.save(buffer, form)
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    objects.put(image_key(tenant, sha256), buffer.getvalue(), f"image/{form.lower()}")
    return f"img_{sha256}"


def run(store: JobStore, tenant: str, kind: str, **spec: object) -> JobRecord:
    return until(store, tenant, submit(store, tenant, POOL, kind=kind, **spec))


def test_dalle_pictures_carry_their_recipe(store: JobStore, objects: ObjectStore, tenant: str) -> None:
    record = run(store, tenant, "dalle", prompts=["a tree", "☃ snow"], n=4, keep=2, seed=0, preview_every=4)
    assert record.state is JobState.SUCCEEDED
    assert record.result is not None
    images = record.result["images"]
    assert [image["name"] for image in images] == ["000.png", "001.png", "002.png", "003.png"]
    assert [image["prompt"] for image in images] == ["a tree"] * 2 + ["☃ snow"] * 2
    assert images[0]["score"] >= images[1]["score"]
    for image in images:
        body = objects.get(image["key"])
        assert (len(body), hashlib.sha256(body).hexdigest()) == (image["bytes"], image["sha256"])
        with Image.open(io.BytesIO(body)) as picture:
            picture.load()
            assert picture.size == (image["width"], image["height"])
            assert picture.info["prompt"] == image["prompt"]
            assert int(picture.info["seed"]) == image["seed"] == 0
            assert json.loads(picture.info["parameters"]) == record.result["parameters"]
            assert json.loads(picture.info["models"]) == record.result["models"]
            assert picture.info["software"] == record.result["software"]
    assert {"queue_s", "sample_s", "decode_s", "rank_s", "encode_s", "upload_s", "run_s"} <= record.timings.keys()


@pytest.mark.parametrize(
    ("kind", "more"),
    [("dalle", {"n": 3, "keep": 2}), ("vqgan_clip", {"iterations": 6, "size": [32, 32]}), ("unclip", {"n": 2})],
)
def test_a_run_without_servers_makes_the_same_pictures(
    own: Settings, store: JobStore, objects: ObjectStore, tenant: str, kind: str, more: dict[str, object]
) -> None:
    input_ = {"prompts": ["a tree"], "seed": 11, **more}
    record = run(store, tenant, kind, **input_)
    assert record.result is not None
    queued = [objects.get(image["key"]) for image in record.result["images"]]
    here = run_here(parse_spec(kind, input_), {}, own, LocalContext())
    assert len(here.encoded.pictures) == len(queued) > 0
    for ours, theirs in zip(here.encoded.pictures, queued, strict=True):
        with Image.open(io.BytesIO(ours.body)) as a, Image.open(io.BytesIO(theirs)) as b:
            assert (a.size, a.tobytes()) == (b.size, b.tobytes())
            assert a.info["parameters"] == b.info["parameters"]
    assert here.timings.keys() >= record.timings.keys() - {"queue_s", "upload_s", "fetch_s"}


def test_a_drawn_picture_is_varied(store: JobStore, objects: ObjectStore, tenant: str) -> None:
    drawn = run(store, tenant, "unclip", prompts=["a tree"], n=2, keep=1, seed=0, decoder_steps=40, preview_every=5)
    assert drawn.state is JobState.SUCCEEDED
    assert drawn.result is not None
    assert {"prior_s", "sample_s", "decode_s", "rank_s"} <= drawn.timings.keys()
    shown = [event.data["step"] for event in EventLog(store.redis).read(tenant, drawn.id) if event.type == "preview"]
    assert shown
    assert all(step % 5 == 0 for step in shown)
    ref = f"{drawn.id}/{drawn.result['images'][0]['name']}"
    varied = run(store, tenant, "unclip", image=ref, n=2, seed=0)
    assert varied.result is not None
    assert [image["prompt"] for image in varied.result["images"]] == [ref] * 2
    assert [model["id"] for model in varied.result["models"]] == ["emoji-unclip", "emoji-vqgan", "emoji-clip"]
    for image in varied.result["images"]:
        assert objects.head(image["key"]).sha256 == image["sha256"]


def test_previews_are_stored_while_it_runs(store: JobStore, objects: ObjectStore, tenant: str) -> None:
    record = run(store, tenant, "vqgan_clip", prompts=["a tree"], iterations=60, size=[32, 32], preview_every=5)
    previews = [event.data for event in EventLog(store.redis).read(tenant, record.id) if event.type == "preview"]
    assert previews
    for preview in previews:
        assert preview["name"] == f"preview-{preview['step']:06d}.png"
        with Image.open(io.BytesIO(objects.get(preview["key"]))) as picture:
            assert picture.size == (32, 32)
    assert record.progress["preview"]["key"] == previews[-1]["key"]
    assert record.progress["fraction"] <= 1


def test_a_cancelled_run_keeps_its_picture(store: JobStore, objects: ObjectStore, tenant: str) -> None:
    job_id = submit(
        store, tenant, POOL, kind="vqgan_clip", prompts=[{"text": "a tree"}], iterations=5000, size=[32, 32]
    )
    until(store, tenant, job_id, "running")
    started = EventLog(store.redis)
    while not any(event.type == "progress" for event in started.read(tenant, job_id, block_ms=100)):
        pass
    store.cancel(tenant, job_id)
    record = until(store, tenant, job_id)
    assert record.state is JobState.CANCELLED
    assert record.result is not None
    (image,) = record.result["images"]
    assert objects.head(image["key"]).sha256 == image["sha256"]
    assert 0 < record.result["parameters"]["iterations_done"] < 5000


def test_a_deadline_keeps_the_picture_too(store: JobStore, tenant: str) -> None:
    job_id = submit(
        store, tenant, POOL, kind="vqgan_clip", prompts=[{"text": "a tree"}], iterations=5000, size=[32, 32],
        deadline_s=5.0,
    )  # fmt: skip
    record = until(store, tenant, job_id)
    assert record.state is JobState.FAILED
    assert record.error is not None
    assert record.error["code"] == "deadline_exceeded"
    assert record.result is not None
    assert len(record.result["images"]) == 1


def test_uploads_and_results_are_ranked_and_classified(store: JobStore, objects: ObjectStore, tenant: str) -> None:
    drawn = run(store, tenant, "dalle", prompts=["a tree"], n=2, seed=0)
    refs = [
        f"{drawn.id}/000.png",
        upload(objects, tenant, Image.new("RGBA", (30, 20), (255, 0, 0, 0))),
        upload(objects, tenant, Image.new("L", (9, 9), 20), "JPEG"),
    ]
    ranked = run(store, tenant, "rank", images=refs, prompt="a tree")
    assert ranked.result is not None
    assert sorted(ranked.result["order"]) == sorted(refs)
    assert drawn.result is not None
    assert ranked.result["scores"][0]["score"] == pytest.approx(drawn.result["images"][0]["score"], abs=2e-2)
    classified = run(store, tenant, "classify", images=refs, labels=["a tree", "a heart"], templates=["{}", "a {}"])
    assert classified.result is not None
    assert [item["image"] for item in classified.result["classifications"]] == refs
    assert "fetch_s" in classified.timings


@pytest.mark.parametrize("what", ["missing", "broken", "huge", "foreign", "no such artifact"])
def test_pictures_that_cannot_be_read(what: str, store: JobStore, objects: ObjectStore, tenant: str) -> None:
    ref = "img_" + "0" * 64
    if what == "broken":
        objects.put(image_key(tenant, "0" * 64), b"\x89PNG\r\n\x1a\n but no more", "image/png")
    elif what == "huge":
        ref = upload(objects, tenant, Image.new("RGB", (200, 200)))  # 40,000 pixels; this worker takes 10,000
    elif what == "foreign":
        ref = upload(objects, "somebody-else", Image.new("RGB", (8, 8)))
    elif what == "no such artifact":
        ref = f"{run(store, tenant, 'probe').id}/000.png"
    record = run(store, tenant, "rank", images=[ref], prompt="a tree")
    assert (record.state, record.attempt) == (JobState.FAILED, 1)
    assert record.error is not None
    assert record.error["code"] == "unreadable_image"
    assert ref in record.error["message"]


def test_the_worker_lists_its_models(worker: Worker) -> None:
    info = worker.info()
    assert info is not None
    assert {model["id"] for model in info.models} == {"emoji-clip", "emoji-vqgan", "emoji-dalle", "emoji-unclip"}
    assert info.device == "cpu"
