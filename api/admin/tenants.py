"""tenants: for operators. Talks to Redis directly, so it needs the server's settings (DREAMQUEUE_REDIS_URL)."""

from __future__ import annotations

from dataclasses import asdict

import click

from api.admin.operators import redis_client
from api.client.terminal.show import show_rows
from api.http.auth import TENANT
from shared.store.tenants import HEAVIEST, Tenants

__all__ = ["tenants"]


@click.group()
def tenants() -> None:
    """List tenants and set their share of the workers."""


@tenants.command("list")
def list_() -> None:
    """Tenants that had jobs or have a weight: share, jobs waiting."""
    with redis_client() as client:
        show_rows([asdict(tenant) for tenant in Tenants(client).list()], ["name", "weight", "queued"])


@tenants.command("weight")
@click.argument("name")
@click.argument("weight", type=click.IntRange(1, HEAVIEST))
def weight(name: str, weight: int) -> None:
    """Give a tenant WEIGHT times the share of one of weight 1 while both have jobs waiting. Takes effect at once."""
    if not TENANT.fullmatch(name):
        raise click.BadParameter("a tenant is 1 to 32 of a-z, 0-9 and -", param_hint="name")
    with redis_client() as client:
        Tenants(client).set_weight(name, weight)
    click.echo(f"{name}  weight {weight}")
