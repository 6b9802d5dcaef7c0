"""`dreamqueue up` and `dreamqueue demo`."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from deploy.local.demo import DemoFailed, run_demo
from deploy.local.processes import ProcessFailed
from deploy.local.stack import Stack, StackError, StackOptions

__all__ = ["demo", "up"]

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".dreamqueue"),
    show_default=True,
    help="Folder of everything the stack keeps.",
)
port_option = click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="HTTP port.")


@contextlib.contextmanager
def _stops_on_signal(stack: Stack) -> Iterator[None]:
    def ask(_number: int, _frame: object) -> None:
        stack.request_stop()
        raise KeyboardInterrupt  # ends a start that is still waiting

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        for number in previous:  # a second Ctrl-C must not cut the orderly stop short
            signal.signal(number, signal.SIG_IGN)
        stack.stop()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _fail(error: Exception) -> None:
    click.echo(f"dreamqueue: {error}", err=True)
    sys.exit(1)


@click.command()
@data_option
@port_option
@click.option("--workers", type=click.IntRange(0, 64), default=1, show_default=True, help="Worker processes.")
def up(data: Path, port: int, workers: int) -> None:
    """Run the whole system here until Ctrl-C: Redis, object store, API, workers, web page."""
    stack = Stack(StackOptions(data, port, workers), say=lambda line: click.echo(line, err=True))
    try:
        with _stops_on_signal(stack):
            stack.start()
            click.echo(f"data    {stack.data}")
            click.echo(f"key     {stack.api_key}   (also in {stack.data / 'api-key'})")
            click.echo(f"docs    {stack.url}/docs")
            click.echo(f"ready {stack.url}")
            sys.stdout.flush()
            stack.supervise()
    except (StackError, ProcessFailed) as error:
        _fail(error)
    click.echo("stopped")


@click.command()
@data_option
@port_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out"),
    show_default=True,
    help="Where the pictures and the contact sheet go.",
)
def demo(data: Path, port: int, out: Path) -> None:
    """Start the stack, generate, rank and classify pictures for five prompts, show what came out, stop."""
    stack = Stack(StackOptions(data, port), say=lambda line: click.echo(line, err=True))
    finished = False
    try:
        with _stops_on_signal(stack):
            click.echo(f"starting Redis, object store, API and a worker in {stack.data} ...")
            stack.start()
            run_demo(stack.url, stack.api_key, out)
            finished = True
    except (StackError, ProcessFailed, DemoFailed) as error:
        _fail(error)
    sys.exit(0 if finished else 130)
