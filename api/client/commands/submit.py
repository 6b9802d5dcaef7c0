"""submit: from words on a command line to a job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from api.client.client import DreamqueueClient
from api.client.commands.connection import connected, output_option
from api.client.commands.job_input import input_options, job_input, pairs
from api.client.commands.jobs import finish, out_option
from api.client.terminal.show import show_job, show_json, watched

__all__ = ["submit"]


@click.command()
@click.argument("kind")
@click.argument("prompts", nargs=-1)
@input_options
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), help="Before or behind other jobs of yours.")
@click.option("--deadline", "deadline_s", type=float, help="Seconds from now by which it must have ended.")
@click.option("--meta", "metadata", multiple=True, metavar="KEY=VALUE", help="A note on the job. Repeat.")
@click.option("--id", "job_id", help="An id of yours, a UUID: sending it again is the same job.")
@click.option("--wait/--no-wait", default=False, help="Watch it until it ends.")
@out_option
@output_option
@connected
def submit(
    client: DreamqueueClient,
    kind: str,
    prompts: tuple[str, ...],
    wait: bool,
    out: Path | None,
    output: str,
    **options: Any,
) -> None:
    """Give a job and print its id; with --wait or --out, watch it and show what it made.

    KIND is dalle, vqgan_clip, unclip, rank, classify, search, index, remove, reembed, duplicates, group, probe, or
    another one that the server has; PROMPTS are its input field `prompts`, --set gives any other.

    \b
    dreamqueue submit dalle "a red apple" --n 16 --keep 4 --out apples
    dreamqueue submit vqgan_clip "a green tree" --iterations 200 --wait
    dreamqueue submit unclip --image apple.png --n 4 --wait
    dreamqueue submit classify --image cat.png --label cat --label dog --wait
    """
    input_ = job_input(kind, prompts, options, client.upload_image)
    given = {name: options[name] for name in ("priority", "deadline_s")}
    given["metadata"] = pairs(options["metadata"], "--meta")
    fields = {name: value for name, value in given.items() if value}
    own_id = options["job_id"]
    job = client.put(own_id, kind, input_, **fields) if own_id else client.submit(kind, input_, **fields)
    if wait or out:
        finish(client, watched(client, job.id), out, output)
    elif output == "json":
        show_json(job.data)
    elif sys.stdout.isatty():
        show_job(job)
    else:
        click.echo(job.id)
