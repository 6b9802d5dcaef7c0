"""An S3 bucket as the place of tables: how LanceDB reaches it, and whether it is fit to be shared by writers."""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from shared.errors import VectorsUnavailable, VectorsUnfit
from shared.settings import Settings
from shared.storage import s3_client

__all__ = ["check_conditional_puts", "storage_options"]

REFUSED = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}  # how a conditional write is refused


def storage_options(settings: Settings) -> dict[str, str]:
    """LanceDB's, for the settings' bucket."""
    return {
        "aws_endpoint": settings.s3_endpoint,
        "aws_region": settings.s3_region,
        "aws_access_key_id": settings.s3_access_key,
        "aws_secret_access_key": settings.s3_secret_key,
        "aws_virtual_hosted_style_request": "false",
        "allow_http": "true" if urlsplit(settings.s3_endpoint).scheme == "http" else "false",
        "timeout": f"{settings.s3_timeout_s:g}s",
    }


def check_conditional_puts(settings: Settings, prefix: str) -> None:
    """Put one key twice, each time only if it is not there yet. A store that takes the second one would lose one of two
    commits made at once. Raises VectorsUnfit, and VectorsUnavailable where the store does not answer."""
    client = s3_client(settings, settings.s3_endpoint)
    key = f"{prefix}/.probe-{secrets.token_hex(8)}".lstrip("/")
    try:
        client.put_object(Bucket=settings.s3_bucket, Key=key, Body=b"1", IfNoneMatch="*")
        try:
            client.put_object(Bucket=settings.s3_bucket, Key=key, Body=b"2", IfNoneMatch="*")
            is_fit = False
        except ClientError as error:
            is_fit = error.response.get("Error", {}).get("Code", "") in REFUSED
            if not is_fit:
                raise
        finally:
            client.delete_object(Bucket=settings.s3_bucket, Key=key)
    except (ClientError, BotoCoreError) as error:
        raise VectorsUnavailable(
            f"DREAMQUEUE_VECTORS_URL: the object store at {settings.s3_endpoint} failed the probe for conditional "
            f"puts, which several writers need: {error}"
        ) from error
    if not is_fit:
        raise VectorsUnfit(
            f"DREAMQUEUE_VECTORS_URL: the object store at {settings.s3_endpoint} does not honour conditional puts "
            "(If-None-Match: *), so two writers could lose each other's rows; use a folder, another store, or a Qdrant "
            "server"
        )
