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
from api.client.terminal.contact_sheet import Row, Tile, draw_contact_sheet

__all__ = ["DECOYS", "PROMPTS", "DemoFailed", "run_demo"]

PROMPTS = ("a red apple", "a slice of pizza", "a cat face", "a rocket", "a jack-o-lantern")
# What else the pictures could have been taken for.
DECOYS = (
    "a tomato", "a strawberry", "a cherry", "an orange", "a hamburger", "a piece of cheese", "a dog face", "a fox",
    "a tiger face", "an airplane", "a pencil", "a lighthouse", "a smiling face", "a sun", "a red heart", "a tree",
    "a house", "a car", "a fish", "a flower", "a star", "a ghost", "a clock", "a book", "a key",
)  # fmt: skip
INPUTS: dict[str, dict[str, Any]] = {
    "dalle": {"n": 16, "keep": 4, "temperature": 0.8, "top_k": 64},  # sharper than the defaults: the model is small
    "unclip": {"n": 8, "keep": 2},
    "vqgan_clip": {"iterations": 120},  # five such pictures share two cores and two minutes
}
TIMEOUT_S = 300.0


class DemoFailed(Exception):
    """A job of the demo did not succeed."""


@dataclass
class _Watched:
    """One job and its bar; once it has ended, what it made."""

    kind: str
    prompt: str
    job: Job
    bar: TaskID
    previews: int = 0
    failure: Exception | None = None  # what ended the watching, other than the job's end
    shots: list[_Shot] = field(default_factory=list)  # best first


@dataclass
class _Shot:
    """One picture: the API's entry, the downloaded file, and what it was taken for."""

    ref: str  # `<job id>/<name>`, as other jobs name it
    image: dict[str, Any]
    path: Path
    label: str = ""
    probability: float = 0.0


def run_demo(url: str, api_key: str, out: Path) -> None:
    """Generate with every kind, classify everything, print tables, draw `out/demo.png`."""
    console = Console()
    started = time.monotonic()
    with DreamqueueClient(url, api_key) as client:
        watched = _generate(client, console)
        for one in watched:
            one.shots = _downloaded(client, one, out / "demo")
        _classify(client, [shot for one in watched for shot in one.shots])
    _show(console, watched)
    sheet = out / "demo.png"
    _draw(watched, sheet)
    took_s = time.monotonic() - started
    console.print(f"contact sheet: [bold]{sheet}[/bold]   pictures: {out / 'demo'}   {took_s:.0f} s")


def _show(console: Console, watched: list[_Watched]) -> None:
    """A table per prompt, and how many pictures were taken for what they should show."""
    for prompt in PROMPTS:
        console.print(_table(prompt, _made_of(prompt, watched)))
    right = sum(shot.label == one.prompt for one in watched for shot in one.shots)
    total = sum(len(one.shots) for one in watched)
    console.print(f"\nclassified as prompted, {len(PROMPTS) + len(DECOYS)} names to choose from: {right} of {total}")


def _draw(watched: list[_Watched], sheet: Path) -> None:
    """A row per prompt."""
    columns = [heading for kind, input_ in INPUTS.items() for heading in _headings(kind, input_.get("n", 1))]
    rows = []
    for prompt in PROMPTS:
        tiles = [_tile(shot) for one in _made_of(prompt, watched) for shot in one.shots]
        rows.append(Row(prompt, tiles))
    draw_contact_sheet(rows, columns, sheet)


def _made_of(prompt: str, watched: list[_Watched]) -> list[_Watched]:
    return [one for one in watched if one.prompt == prompt]


def _headings(kind: str, candidates: int) -> list[str]:
    if candidates == 1:
        return [kind]
    ranks = [f"{number}{['st', 'nd', 'rd', 'th'][min(number, 4) - 1]}" for number in range(1, INPUTS[kind]["keep"] + 1)]
    return [f"{kind}, {rank} of {candidates}" for rank in ranks]


def _generate(client: DreamqueueClient, console: Console) -> list[_Watched]:
    """Every job, ended. Raises DemoFailed."""
    columns = (
        TextColumn("{task.description:32}"),
        BarColumn(24),
        TextColumn("{task.percentage:>4.0f} %  {task.fields[stage]:24}"),
        TimeElapsedColumn(),
    )
    console.print(f"{len(PROMPTS)} prompts, each by {', '.join(INPUTS)}; of several candidates CLIP keeps the best\n")
    with Progress(*columns, console=console, refresh_per_second=5) as bars:
        watched = [
            _Watched(
                kind,
                prompt,
                client.submit(kind, {"prompts": [prompt], "seed": 1, **input_}),
                bars.add_task(f"{kind}: {prompt}", total=1.0, stage="queued"),
            )
            for kind, input_ in INPUTS.items()
            for prompt in PROMPTS
        ]
        threads = [threading.Thread(target=_watch, args=(client, bars, one), daemon=True) for one in watched]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
    for one in watched:
        if one.job.state != "succeeded":
            raise DemoFailed(f"{one.kind}: {one.prompt}: {one.job.error or one.failure or 'did not end in time'}")
    return watched


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
    one.job = client.wait(one.job.id, timeout_s=30)


def _downloaded(client: DreamqueueClient, one: _Watched, folder: Path) -> list[_Shot]:
    paths = client.download_all(one.job, folder / f"{one.kind}-{one.prompt}".replace(" ", "-"))
    return [
        _Shot(f"{one.job.id}/{image['name']}", image, path) for image, path in zip(one.job.images, paths, strict=False)
    ]  # files that are no pictures come last


def _classify(client: DreamqueueClient, shots: list[_Shot]) -> None:
    """Note what CLIP takes each picture for."""
    labels = [*PROMPTS, *DECOYS]
    job = client.submit("classify", {"images": [shot.ref for shot in shots], "labels": labels, "top_k": 1})
    ended = client.wait(job.id, timeout_s=TIMEOUT_S)
    if ended.result is None or ended.state != "succeeded":
        raise DemoFailed(f"classify: {ended.error}")
    for shot, item in zip(shots, ended.result["classifications"], strict=True):
        shot.label, shot.probability = item["labels"][0]["label"], item["labels"][0]["probability"]


def _tile(shot: _Shot) -> Tile:
    return Tile(shot.path, f"CLIP {shot.image['score']:.3f}", f"{shot.label} {shot.probability:.0%}")


def _table(prompt: str, made: list[_Watched]) -> Table:
    table = Table("rank", "kind", "score", "seed", "classified as", "file", title=prompt, title_justify="left")
    for one in made:
        for rank, shot in enumerate(one.shots, 1):
            seed = f"{shot.image['seed']}/{shot.image['index']}"
            taken_for = f"{shot.label} {shot.probability:.0%}"
            table.add_row(str(rank), one.kind, f"{shot.image['score']:.3f}", seed, taken_for, str(shot.path))
    return table
