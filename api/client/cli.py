"""`dreamqueue`: the command line. Commands load when they are called, so `--help` is quick and needs no extra.

Exit codes: 0 done, 1 the job did not succeed, 2 wrong input or usage, 3 key refused, 4 not there or not possible
any more, 5 server out of reach or busy, 130 interrupted.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from api.client.errors import (
    Busy,
    ClientError,
    Conflicting,
    Gone,
    InvalidRequest,
    Missing,
    NotAllowed,
    Unreachable,
    WaitTimeout,
)

__all__ = ["LazyCommands", "cli", "exit_code", "main"]

OURS = {  # command -> (where it is, what it does)
    "submit": ("api.client.commands.submit:submit", "Give a job; with --wait, watch it and save what it makes."),
    "watch": ("api.client.commands.jobs:watch", "Follow a job until it ends."),
    "get": ("api.client.commands.jobs:get", "Show a job; with --out, save what it made."),
    "list": ("api.client.commands.jobs:list_", "List your jobs, newest first."),
    "cancel": ("api.client.commands.jobs:cancel", "Cancel jobs."),
    "pause": ("api.client.commands.jobs:pause", "Let jobs stand still until they are resumed."),
    "resume": ("api.client.commands.jobs:resume", "Let paused jobs go on."),
    "retry": ("api.client.commands.jobs:retry", "Run an ended job again, as a new one."),
    "index": ("api.client.commands.index:index", "Put a folder of pictures into a collection."),
    "search": ("api.client.commands.search:search", "Find pictures of a collection by words and pictures."),
    "classify": ("api.client.commands.classify:classify", "Label pictures, or a whole collection."),
    "collections": ("api.client.commands.collections:collections", "Collections: list, show, duplicates, groups."),
    "upload": ("api.client.commands.fleet:upload", "Upload pictures; prints their ids."),
    "models": ("api.client.commands.fleet:models", "Models that live workers hold."),
    "pools": ("api.client.commands.fleet:pools", "Pools: how deep, how many workers."),
    "workers": ("api.client.commands.fleet:workers", "Live workers."),
    "keys": ("api.admin.keys:keys", "Create, list and revoke API keys (operators; talks to Redis)."),
    "tenants": ("api.admin.tenants:tenants", "Tenants' shares of the workers (operators; talks to Redis)."),
}
PLUGINS = {  # what the entry points of this distribution do, for --help without importing them
    "up": "Run the whole system here: servers, API, workers, web page.",
    "demo": "Start the system, make pictures for five prompts, stop.",
    "run": "Run one spec in this process, without servers, and save what it makes.",
    "train": "Make the shipped small models and pictures again: data, clip, vqgan, dalle, unclip.",
    "weights": "Turn published checkpoints into files that a worker loads: min-dalle.",
}
EXTRAS = {"up": "local", "demo": "local", "run": "worker", "train": "train", "keys": "api", "tenants": "api"}
EXIT_CODES: tuple[tuple[type[ClientError], int], ...] = (
    (InvalidRequest, 2),
    (NotAllowed, 3),
    (Missing, 4),
    (Gone, 4),
    (Conflicting, 4),
    (Busy, 5),
    (Unreachable, 5),
    (WaitTimeout, 1),
)


def exit_code(error: ClientError) -> int:
    """What a command ends with after this error."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)


class LazyCommands(click.Group):
    """A group whose commands are imported when they are named; entry points `dreamqueue.commands` add more."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """Ours in the order of a job's life, then the plugins."""
        return [*OURS, *sorted(_plugins())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the command. A missing package becomes a message that says what to install."""
        try:
            if cmd_name in OURS:
                return _loaded(OURS[cmd_name][0])
            plugin = _plugins().get(cmd_name)
            command: click.Command | None = plugin.load() if plugin else None
        except ModuleNotFoundError as error:
            extra = EXTRAS.get(cmd_name, "local")
            raise click.ClickException(
                f"`dreamqueue {cmd_name}` needs {error.name}, which is not installed: pip install 'dreamqueue[{extra}]'"
            ) from None
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list in --help, without importing anything."""
        rows = [(name, text) for name, (_, text) in OURS.items()]
        rows += [(name, PLUGINS.get(name, "")) for name in sorted(_plugins())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run; the client's errors become a line on stderr and an exit code."""
        try:
            return super().invoke(ctx)
        except ClientError as error:
            _complain(error)
            ctx.exit(exit_code(error))


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="dreamqueue")
def cli() -> None:
    """Text prompts become ranked pictures. Give jobs to a dreamqueue server and get what they made.

    The server and the key come from DREAMQUEUE_URL and DREAMQUEUE_API_KEY, or --url and --key after a command.
    """


def main() -> None:
    """The console script."""
    cli(prog_name="dreamqueue")


def _loaded(place: str) -> click.Command:
    module, _, name = place.partition(":")
    command: click.Command = getattr(import_module(module), name)
    return command


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="dreamqueue.commands")}


def _complain(error: ClientError) -> None:
    click.echo(f"dreamqueue: {error}", err=True)
    for item in getattr(error, "errors", [])[1:]:
        limit = f" ({item['limit']})" if item.get("limit") else ""
        click.echo(f"  {item['field']}: {item['message']}{limit}", err=True)
