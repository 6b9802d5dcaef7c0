"""The demo: five prompts become ranked pictures, in front of your eyes, through the same API everybody uses."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from api.client.client import DreamqueueClient
from api.client.job import Job
from deploy.local.contact_sheet import Row, Tile, draw_contact_sheet

__all__ = ["DECOYS", "PROMPTS", "DemoFailed", "run_demo"]

PROMPTS = ("a red apple", "a slice of pizza", "a cat face", "a rocket", "a jack-o-lantern")
# What else the pictures could have been taken for.
DECOYS = (
    "a tomato", "a strawberry", "a cherry", "an orange", "a hamburger", "a piece of cheese", "a dog face", "a fox",
    "a tiger face", "an airplane", "a pencil", "a lighthouse", "a smiling face", "a sun", "a red heart", "a tree",
    "a house", "a car", "a fish", "a flower", "a star", "a ghost", "a clock", "a book", "a key",
)  # fmt: skip
CANDIDATES, KEPT = 16, 4
SAMPLING = {"temperature": 0.8, "top_k": 64}  # sharper than the defaults: the embedded model is small
ITERATIONS = 120  # per VQGAN+CLIP picture; five of them share two cores and two minutes
TIMEOUT_S = 300.0


class DemoFailed(Exception):
    """A job of the demo did not succeed."""


@dataclass
class _Watched:
    """One job, its bar, and how many previews it showed."""

    title: str
    job: Job
    bar: TaskID
    previews: int = 0
    ended: Job | None = None
    failure: Exception | None = None  # what ended the watching, other than the job's end
    folder: Path = field(default_factory=Path)


def run_demo(url: str, api_key: str, out: Path) -> None:
    """Generate with DALL-E and VQGAN+CLIP, classify everything, print tables, draw `out/demo.png`."""
    console = Console()
    started = time.monotonic()
    with DreamqueueClient(url, api_key) as client:
        drawn, optimised = _generate(client, console, out)
        labels = _classify(client, [*drawn, *optimised])
        _print_results(console, drawn, optimised, labels)
        rows = [
            Row(prompt, [*_tiles(one, labels), *_tiles(other, labels)])
            for prompt, one, other in zip(PROMPTS, drawn, optimised, strict=True)
        ]
    sheet = out / "demo.png"
    columns = [f"dalle, {rank} of {CANDIDATES}" for rank in _ranks(KEPT)] + ["vqgan_clip"]
    draw_contact_sheet(rows, columns, sheet)
    right = sum(label[0] == prompt for (prompt, _), label in labels.items())
    console.print(
        f"\nclassified as prompted, {len(PROMPTS) + len(DECOYS)} names to choose from: {right} of {len(labels)}"
    )
    console.print(
        f"contact sheet: [bold]{sheet}[/bold]   pictures: {out / 'demo'}   {time.monotonic() - started:.0f} s"
    )


def _ranks(count: int) -> list[str]:
    return [f"{number}{['st', 'nd', 'rd'][number - 1] if number < 4 else 'th'}" for number in range(1, count + 1)]


def _generate(client: DreamqueueClient, console: Console, out: Path) -> tuple[list[_Watched], list[_Watched]]:
    columns = (
        TextColumn("{task.description:32}"),
        BarColumn(24),
        TextColumn("{task.percentage:>4.0f} %  {task.fields[stage]:24}"),
        TimeElapsedColumn(),
    )
    console.print(f"{len(PROMPTS)} prompts, {CANDIDATES} candidates each, the best {KEPT} kept; then VQGAN+CLIP\n")
    with Progress(*columns, console=console, refresh_per_second=5) as bars:
        drawn = [
            _submitted(
                client,
                bars,
                "dalle",
                prompt,
                {"prompts": [prompt], "n": CANDIDATES, "keep": KEPT, "seed": 1, **SAMPLING},
            )
            for prompt in PROMPTS
        ]
        optimised = [
            _submitted(client, bars, "vqgan_clip", prompt, {"prompts": prompt, "seed": 1, "iterations": ITERATIONS})
            for prompt in PROMPTS
        ]
        watched = [*drawn, *optimised]
        threads = [threading.Thread(target=_watch, args=(client, bars, one), daemon=True) for one in watched]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
    for one in watched:
        if one.ended is None or one.ended.state != "succeeded":
            why = one.ended.data["error"] if one.ended else one.failure or "did not end in time"
            raise DemoFailed(f"{one.title}: {why}")
        one.folder = out / "demo" / one.title.replace(" ", "-").replace(":", "")
        client.download_all(one.ended, one.folder)
    return drawn, optimised


def _submitted(client: DreamqueueClient, bars: Progress, kind: str, prompt: str, input_: dict[str, Any]) -> _Watched:
    title = f"{kind}: {prompt}"
    return _Watched(title, client.submit(kind, input_), bars.add_task(title, total=1.0, stage="queued"))


def _watch(client: DreamqueueClient, bars: Progress, one: _Watched) -> None:
    try:
        _follow(client, bars, one)
    except Exception as error:  # a thread's end must be told by the one who joins it
        one.failure = error


def _follow(client: DreamqueueClient, bars: Progress, one: _Watched) -> None:
    for event in client.watch(one.job.id):
        if event.type == "progress":
            stage = f"{event.data['stage']} {event.data['step']}/{event.data['total']}"
            bars.update(one.bar, completed=event.data["fraction"] or 0, stage=stage)
        elif event.type == "preview":
            one.previews += 1
        elif event.type == "finished":
            bars.update(one.bar, completed=1.0, stage=f"{event.data['state']}, {one.previews} previews")
    one.ended = client.wait(one.job.id, timeout_s=30)


def _classify(client: DreamqueueClient, watched: list[_Watched]) -> dict[tuple[str, str], tuple[str, float]]:
    """(prompt, picture) -> best label and its probability; pictures are named `<job id>/<name>`."""
    names = [*PROMPTS, *DECOYS]
    refs = [f"{one.job.id}/{image['name']}" for one in watched for image in _images(one)]
    prompts = [one.title.partition(": ")[2] for one in watched for _ in _images(one)]
    job = client.submit("classify", {"images": refs, "labels": names, "top_k": 3})
    ended = client.wait(job.id, timeout_s=TIMEOUT_S)
    if ended.state != "succeeded":
        raise DemoFailed(f"classify: {ended.data['error']}")
    best = [item["labels"][0] for item in ended.data["result"]["classifications"]]
    return {
        (prompt, ref): (label["label"], label["probability"])
        for prompt, ref, label in zip(prompts, refs, best, strict=True)
    }


def _images(one: _Watched) -> list[dict[str, Any]]:
    assert one.ended is not None
    images: list[dict[str, Any]] = one.ended.data["result"]["images"]
    return images


def _files(one: _Watched) -> list[Path]:
    """Downloaded pictures, best first."""
    return sorted(one.folder.glob("*.png"))


def _tiles(one: _Watched, labels: dict[tuple[str, str], tuple[str, float]]) -> list[Tile]:
    tiles = []
    for path, image in zip(_files(one), _images(one), strict=True):
        label, probability = labels[one.title.partition(": ")[2], f"{one.job.id}/{image['name']}"]
        tiles.append(Tile(path, f"CLIP {image['score']:.3f}", f"{label} {probability:.0%}"))
    return tiles


def _print_results(
    console: Console,
    drawn: list[_Watched],
    optimised: list[_Watched],
    labels: dict[tuple[str, str], tuple[str, float]],
) -> None:
    for prompt, *pair in zip(PROMPTS, drawn, optimised, strict=True):
        table = Table("rank", "kind", "score", "seed", "classified as", "file", title=prompt, title_justify="left")
        for one in pair:
            for rank, (path, image) in enumerate(zip(_files(one), _images(one), strict=True), 1):
                label, probability = labels[prompt, f"{one.job.id}/{image['name']}"]
                kind = one.title.partition(":")[0]
                seed = f"{image['seed']}/{image['index']}"
                table.add_row(str(rank), kind, f"{image['score']:.3f}", seed, f"{label} {probability:.0%}", str(path))
        console.print(table)
