"""tenants: for operators. Talks to Redis directly, so it needs the server's settings (DREAMQUEUE_REDIS_URL)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import click

from api.auth import TENANT
from api.client.commands.show import show_rows
from shared.connection import connect
from shared.errors import StoreUnavailable
from shared.settings import Settings
from shared.tenants import HEAVIEST, Tenants

__all__ = ["tenants"]


@contextmanager
def _tenants() -> Iterator[Tenants]:
    client = connect(Settings.from_env())
    try:
        yield Tenants(client)
    except StoreUnavailable as error:
        raise click.ClickException(error.message) from None
    finally:
        client.close()


@click.group()
def tenants() -> None:
    """List tenants and set their share of the workers."""


@tenants.command("list")
def list_() -> None:
    """Tenants that had jobs or have a weight: share, jobs waiting."""
    with _tenants() as known:
        show_rows([asdict(tenant) for tenant in known.list()], ["name", "weight", "queued"])


@tenants.command("weight")
@click.argument("name")
@click.argument("weight", type=click.IntRange(1, HEAVIEST))
def weight(name: str, weight: int) -> None:
    """Give a tenant WEIGHT times the share of one of weight 1 while both have jobs waiting. Takes effect at once."""
    if not TENANT.match(name):
        raise click.BadParameter("a tenant is 1 to 32 of a-z, 0-9 and -", param_hint="name")
    with _tenants() as known:
        known.set_weight(name, weight)
    click.echo(f"{name}  weight {weight}")
