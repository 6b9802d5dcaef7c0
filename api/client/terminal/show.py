"""How jobs look in a terminal: a live line while they run, a table of what they made."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from api.client.client import DreamqueueClient
from api.client.job import Event, Job

__all__ = ["console_for_lines", "show_job", "show_json", "show_rows", "watched"]

PIPED_WIDTH = 10_000  # into a pipe or file, no line is folded
COLOURS = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "expired": "yellow", "running": "cyan"}
FOUND = ("scores", "order", "classifications")  # fields of a result that say something about given pictures


def show_json(value: Any) -> None:
    """For programs."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def show_rows(rows: Iterable[dict[str, Any]], columns: list[str]) -> None:
    """One line per row."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold", no_wrap=column in ("id", "kid"))
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    console = console_for_lines()
    console.print(table, crop=False)


def console_for_lines() -> Console:
    """Stdout: as wide as the terminal, or so wide that nothing is folded."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPED_WIDTH)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def show_job(job: Job, saved: list[Path] | None = None) -> None:
    """State, what went wrong, what was made and where it was saved."""
    saved = saved or []
    _show_state(job)
    if job.images:
        _show_images(job, saved)
    found = {name: value for name, value in (job.result or {}).items() if name in FOUND}
    if found:
        show_json(found)
    for path in saved:
        if not any(path.name.endswith(image["name"]) for image in job.images):
            click.echo(f"  {path}")


def _show_state(job: Job) -> None:
    console = Console(highlight=False)
    console.print(f"{job.id}  {job.kind}  [{COLOURS.get(job.state, 'default')}]{job.state}[/]", soft_wrap=True)
    if job.state == "queued" and job.data["position"] is not None:
        console.print(f"  {job.data['position']} before it{_eta(job.data['eta_s'])}")
    if job.error:
        console.print(f"  {job.error['code']}: {job.error['message']}", style="red", markup=False)


def _show_images(job: Job, saved: list[Path]) -> None:
    places = {path.name.partition("-")[2]: str(path) for path in saved}
    rows = []
    for rank, image in enumerate(job.images, 1):
        rows.append({"rank": rank, "file": places.get(image["name"]) or image["url"], **image})
    show_rows(rows, ["rank", "score", "seed", "prompt", "file"])


def watched(client: DreamqueueClient, job_id: str) -> Job:
    """Follow a job with a live line on stderr; the job as it ended."""
    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        console=console,
        transient=console.is_terminal,
    ) as progress:
        line = progress.add_task("queued", total=None, note="")
        for event in client.watch(job_id):
            _advance(progress, line, event)
            if not console.is_terminal and event.type in ("started", "finished"):
                console.print(f"{job_id} {event.type}: {event.data.get('state', '')}", highlight=False)
    return client.get(job_id)


def _advance(progress: Progress, line: TaskID, event: Event) -> None:
    data = event.data
    if event.type in ("progress", "preview"):
        steps = f" {data['step']}/{data['total']}" if data.get("total") else ""
        fraction = data.get("fraction")
        progress.update(
            line,
            description=f"{data.get('stage') or 'running'}{steps}",
            total=None if fraction is None else 1.0,
            completed=fraction or 0.0,
            note=f"preview {data['preview_url']}" if data.get("preview_url") else "",
        )
    elif event.type == "log":
        progress.update(line, note=str(data.get("message", ""))[:80])
    else:
        note = f"on {data['worker']}" if data.get("worker") else str(data.get("reason", ""))
        progress.update(line, description=data.get("state", event.type), note=note)


def _eta(eta_s: float | None) -> str:
    return "" if eta_s is None else f", about {eta_s:.0f} s"
