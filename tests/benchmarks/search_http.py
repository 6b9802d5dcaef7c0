"""Search as a caller sees it: the embedded stack, OpenMoji's 1,652 pictures, `POST /v1/search` by text over HTTP.

- Latency under an open load: 20 requests a second go out on time whatever the answers take, each with a text not
  asked before. Measured from when a request was due, so that a stall counts for all that waited behind it.
- Recall at 10 of 200 names, over HTTP, beside the model's own on the same pictures (exact, in this process).
- Indexing while the worker that indexes is killed (kill -9), again and again: rows must be the inputs, once each.
"""

from __future__ import annotations

import csv
import io
import os
import random
import signal
import statistics
import tempfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from api.client import DreamqueueClient
from deploy.local.servers import free_port
from deploy.local.stack import Stack, StackOptions
from tests.benchmarks.report import Report
from worker.engines.images import to_tensor
from worker.engines.library import ModelLibrary

PER_SECOND = 20
REQUESTS = 600
WARM_UP = 20
RECALL_NAMES = 200
KILLS = 3
KILLED_PICTURES = 6_000
CONNECTIONS = 32  # callers at once, so that late answers do not hold back later requests


def run(report: Report) -> None:
    """All three, on one stack."""
    with (
        tempfile.TemporaryDirectory(prefix="dq-bench-") as folder,
        Stack(StackOptions(Path(folder), free_port()), say=print) as stack,
        DreamqueueClient(stack.url, stack.api_key) as client,
    ):
        client.create_collection("openmoji")
        archive = Path(str(resources.files("deploy") / "pictures" / "openmoji.zip"))
        started_at = time.monotonic()
        job = client.wait(client.add_archive("openmoji", archive).id)
        assert job.result is not None
        report.add("index_openmoji_s", time.monotonic() - started_at, "s", at_most=60)
        report.add("index_pictures_per_s", job.result["added"] / job.data["timings"]["run_s"], "1/s")
        names = _names(archive)
        _latency(report, client, names)
        _recall(report, client, archive, names)
        _killed(report, stack, client, Path(folder))


def _names(archive: Path) -> list[str]:
    with zipfile.ZipFile(archive) as file:
        return [row["name"] for row in csv.DictReader(io.StringIO(file.read("metadata.csv").decode()))]


def _latency(report: Report, client: DreamqueueClient, names: list[str]) -> None:
    texts = [f"a drawing of {name}, number {number}" for number, name in enumerate(names[: REQUESTS + WARM_UP])]
    took: list[float] = []

    def ask(text: str, due: float) -> None:
        client.search("openmoji", text)
        took.append(time.monotonic() - due)

    with ThreadPoolExecutor(CONNECTIONS) as callers:
        for text in texts[:WARM_UP]:
            callers.submit(ask, text, time.monotonic()).result()
        took.clear()
        begin = time.monotonic()
        asked = []
        for number, text in enumerate(texts[WARM_UP:]):
            due = begin + number / PER_SECOND
            time.sleep(max(0.0, due - time.monotonic()))
            asked.append(callers.submit(ask, text, due))
        for one in asked:
            one.result()
    cuts = statistics.quantiles(took, n=100)
    report.add("search_http_p50_ms", cuts[49] * 1000, "ms", at_most=40)
    report.add("search_http_p99_ms", cuts[98] * 1000, "ms", at_most=120)
    report.add("search_http_failed", REQUESTS - len(took), "requests", at_most=0)


def _recall(report: Report, client: DreamqueueClient, archive: Path, names: list[str]) -> None:
    asked = random.Random(0).sample(names, RECALL_NAMES)
    found = sum(name in _found(client, name) for name in asked)
    report.add("search_api_recall_at_10", 100 * found / RECALL_NAMES, "%", at_least=_own_recall(archive, names, asked))


def _found(client: DreamqueueClient, text: str) -> list[str]:
    return [hit["metadata"]["name"] for hit in client.search("openmoji", text, limit=10)["hits"]]


@torch.inference_mode()
def _own_recall(archive: Path, names: list[str], asked: list[str]) -> float:
    """What the model itself finds, without any of the system: exact cosines of the same pictures and texts."""
    clip = ModelLibrary(torch.device("cpu")).clip("emoji-clip")
    side = clip.image_size_px
    with zipfile.ZipFile(archive) as file:
        rows = csv.DictReader(io.StringIO(file.read("metadata.csv").decode()))
        pictures = [Image.open(io.BytesIO(file.read(row["file"]))).convert("RGB") for row in rows]
    tensors = torch.cat([to_tensor(picture, (side, side)) for picture in pictures])
    seen = torch.cat([clip.encode_image(part) for part in tensors.split(128)]).numpy()
    texts = torch.cat([clip.encode_text(asked[at : at + 100]) for at in range(0, len(asked), 100)]).numpy()
    best = np.argsort(-(texts @ seen.T), axis=1)[:, :10]
    right = sum(name in {names[at] for at in row} for name, row in zip(asked, best, strict=True))
    return 100 * right / len(asked)


def _killed(report: Report, stack: Stack, client: DreamqueueClient, folder: Path) -> None:
    """The supervisor starts each killed worker again, as it does in a deployment."""
    archive = folder / "killed.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(KILLED_PICTURES):
            buffer = io.BytesIO()
            Image.new("RGB", (32, 32), (number % 256, number // 256, 77)).save(buffer, "PNG")
            file.writestr(f"{number:05d}.png", buffer.getvalue())
    client.create_collection("killed")
    watch = threading.Thread(target=stack.supervise, daemon=True)
    watch.start()
    job = client.add_archive("killed", archive)
    kills, seen = 0, 0
    while kills < KILLS and not client.get(job.id).is_final:
        rows = client.collection("killed")["rows"]
        if rows > seen:
            seen = rows + 1_000
            os.kill(int((stack.data / "run" / "worker-1.pid").read_text()), signal.SIGKILL)
            kills += 1
            print(f"killed the worker at {rows} rows")
        time.sleep(0.05)
    done = client.wait(job.id, timeout_s=300)
    stack.request_stop()
    watch.join()
    assert done.result is not None
    ids = _all_ids(client, "killed")
    report.add("index_kills", kills, "kills", at_least=KILLS)
    report.add("index_killed_rows_missing", KILLED_PICTURES - len(set(ids)), "rows", at_most=0)
    report.add("index_killed_rows_doubled", len(ids) - len(set(ids)), "rows", at_most=0)


def _all_ids(client: DreamqueueClient, name: str) -> list[str]:
    ids: list[str] = []
    cursor = None
    while True:
        page = client.search(name, "anything", limit=1_000, cursor=cursor)
        ids += [hit["id"] for hit in page["hits"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return ids
