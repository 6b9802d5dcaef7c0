"""upload, models, pools, workers."""

from __future__ import annotations

from pathlib import Path

import click

from api.client.client import DreamqueueClient
from api.client.commands.connection import connected, output_option
from api.client.terminal.show import show_json, show_rows

__all__ = ["models", "pools", "upload", "workers"]


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@connected
def upload(files: tuple[Path, ...], client: DreamqueueClient) -> None:
    """Upload PNG, JPEG or WebP pictures; prints the ids that name them in job inputs."""
    for file in files:
        click.echo(f"{client.upload_image(file)}  {file}")


@click.command()
@output_option
@connected
def models(output: str, client: DreamqueueClient) -> None:
    """Models that live workers hold."""
    _show(client.models(), ["id", "family", "pools", "workers", "sha256"], output)


@click.command()
@output_option
@connected
def pools(output: str, client: DreamqueueClient) -> None:
    """Pools: ready and running jobs, ready workers, their slots."""
    _show(client.pools(), ["name", "ready_workers", "slots", "ready_jobs", "running_jobs", "doorbells"], output)


@click.command()
@output_option
@connected
def workers(output: str, client: DreamqueueClient) -> None:
    """Live workers."""
    _show(client.workers(), ["name", "pool", "state", "device", "busy", "slots", "kinds", "version"], output)


def _show(rows: list[dict[str, object]], columns: list[str], output: str) -> None:
    if output == "json":
        show_json(rows)
    else:
        show_rows(rows, columns)
