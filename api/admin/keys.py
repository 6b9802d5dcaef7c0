"""keys: for operators. Talks to Redis directly, so it needs the server's settings (DREAMQUEUE_REDIS_URL)."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from api.admin.operators import redis_client
from api.client.terminal.show import show_rows
from api.http.auth import SCOPES, KeyStore

__all__ = ["keys"]


@click.group()
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command("create")
@click.argument("tenant")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(sorted(SCOPES)),
    show_default=True,
    default=["jobs:read", "jobs:write"],
    help="What the key may do. Repeat.",
)
@click.option("--days", type=click.IntRange(1), help="Ends after so many days; never if left out.")
def create(tenant: str, scopes: tuple[str, ...], days: int | None) -> None:
    """Make a key for a tenant. It is shown now and never again."""
    with redis_client() as client:
        click.echo(KeyStore(client).create(tenant, scopes, expires_in_s=days and days * 86_400))


@keys.command("list")
@click.option("--tenant", help="Only this tenant's.")
def list_(tenant: str | None) -> None:
    """All keys: id, tenant, scopes, age; never the secret."""
    with redis_client() as client:
        found = KeyStore(client).list(tenant)
    show_rows(
        (
            {
                "kid": key.kid,
                "tenant": key.tenant,
                "scopes": sorted(key.scopes),
                "created_at": _day(key.created_at),
                "expires_at": _day(key.expires_at),
            }
            for key in found
        ),
        ["kid", "tenant", "scopes", "created_at", "expires_at"],
    )


@keys.command("revoke")
@click.argument("kid")
def revoke(kid: str) -> None:
    """End a key, by its id or its whole text. API processes forget it within seconds."""
    kid = kid.split("_")[1] if kid.startswith("dq_") else kid
    with redis_client() as client:
        if not KeyStore(client).revoke(kid):
            raise click.ClickException(f"no key {kid}")
    click.echo(f"revoked {kid}")


def _day(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
