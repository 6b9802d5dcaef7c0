"""Options every command that talks to a server has."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from api.client.client import DreamqueueClient

__all__ = ["connected", "json_option", "output_option"]

LOCAL_KEY = Path(".dreamqueue/api-key")  # where `dreamqueue up` leaves its development key
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

output_option = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of the answer."
)
json_option = click.option("--json", "as_json", is_flag=True, help="The server's answer as it came, for programs.")


def connected(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --url and --key; the command gets a `client` that is closed after it."""

    @click.option(
        "--url",
        envvar="DREAMQUEUE_URL",
        default="http://127.0.0.1:8000",
        show_default=True,
        show_envvar=True,
        help="The server.",
    )
    @click.option(
        "--key",
        envvar="DREAMQUEUE_API_KEY",
        show_envvar=True,
        help="API key; for a server on this machine, ./.dreamqueue/api-key if left out.",
    )
    @functools.wraps(command)
    def run(*args: Any, url: str, key: str | None, **options: Any) -> Any:
        with DreamqueueClient(url, key or _local_key(url)) as client:
            return command(*args, client=client, **options)

    return run


def _local_key(url: str) -> str | None:
    if urlsplit(url).hostname in LOOPBACK and LOCAL_KEY.is_file():
        return LOCAL_KEY.read_text().strip()
    return None
