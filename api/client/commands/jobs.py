"""watch, get, list, cancel, pause, resume, retry."""

from __future__ import annotations

from pathlib import Path

import click

from api.client.client import DreamqueueClient
from api.client.commands.connection import connected, output_option
from api.client.job import FINAL_STATES, Job
from api.client.terminal.show import show_job, show_json, show_rows, watched

__all__ = ["cancel", "finish", "get", "list_", "out_option", "pause", "resume", "retry", "watch"]

STATES = ["queued", "running", *sorted(FINAL_STATES)]
out_option = click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Save pictures and files in this folder."
)


def finish(client: DreamqueueClient, job: Job, out: Path | None, output: str) -> None:
    """Save and show an ended job; exit 1 unless it succeeded."""
    saved = client.download_all(job, out) if out and job.result else []
    if output == "json":
        show_json(job.data)
    else:
        show_job(job, saved)
    if job.state != "succeeded":
        click.get_current_context().exit(1)


@click.command()
@click.argument("job_id")
@out_option
@output_option
@connected
def watch(job_id: str, out: Path | None, output: str, client: DreamqueueClient) -> None:
    """Follow a job until it ends. Exit code 1 unless it succeeds."""
    finish(client, watched(client, job_id), out, output)


@click.command()
@click.argument("job_id")
@click.option(
    "--wait", "wait_s", type=click.FloatRange(0, 60), default=0, help="Wait up to this many seconds for its end."
)
@out_option
@output_option
@connected
def get(job_id: str, wait_s: float, out: Path | None, output: str, client: DreamqueueClient) -> None:
    """Show a job; with --out, save what it made."""
    job = client.get(job_id, wait_s=wait_s)
    saved = client.download_all(job, out) if out and job.result else []
    if output == "json":
        show_json(job.data)
    else:
        show_job(job, saved)


@click.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only these.")
@click.option("--kind", help="Only these.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@output_option
@connected
def list_(state: str | None, kind: str | None, limit: int, output: str, client: DreamqueueClient) -> None:
    """List your jobs, newest first."""
    jobs = [job.data for job in client.list(state=state, kind=kind, limit=limit)]
    if output == "json":
        show_json(jobs)
    else:
        show_rows(jobs, ["id", "kind", "state", "created_at", "finished_at", "worker"])


@click.command()
@click.argument("job_ids", nargs=-1, required=True)
@connected
def cancel(job_ids: tuple[str, ...], client: DreamqueueClient) -> None:
    """Cancel jobs. A running one stops at its next step and keeps what it has finished."""
    for job_id in job_ids:
        job = client.cancel(job_id)
        click.echo(f"{job.id}  {'stopping' if job.state == 'running' else job.state}")


@click.command()
@click.argument("job_ids", nargs=-1, required=True)
@connected
def pause(job_ids: tuple[str, ...], client: DreamqueueClient) -> None:
    """Let jobs stand still until they are resumed. A running one stops at its next step."""
    for job_id in job_ids:
        job = client.pause(job_id)
        click.echo(f"{job.id}  {'pausing' if job.state == 'running' else 'paused'}")


@click.command()
@click.argument("job_ids", nargs=-1, required=True)
@connected
def resume(job_ids: tuple[str, ...], client: DreamqueueClient) -> None:
    """Let paused jobs go on, from their old place in the queue."""
    for job_id in job_ids:
        job = client.resume(job_id)
        click.echo(f"{job.id}  {job.state}")


@click.command()
@click.argument("job_id")
@click.option("--wait/--no-wait", default=False, help="Watch the new job until it ends.")
@out_option
@output_option
@connected
def retry(job_id: str, wait: bool, out: Path | None, output: str, client: DreamqueueClient) -> None:
    """Run an ended job again, as a new job with the same input and seed; prints its id."""
    job = client.retry(job_id)
    if wait or out:
        finish(client, watched(client, job.id), out, output)
    elif output == "json":
        show_json(job.data)
    else:
        click.echo(job.id)
