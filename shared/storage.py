"""The object store, over boto3: any S3-compatible endpoint. There is no second path for local files.

Keys are built here, from ids only:
    {tenant}/images/{sha256}                        an uploaded picture
    {tenant}/jobs/{job id}/a{attempt}/{name}        an artifact; each attempt writes to a place of its own
    {tenant}/jobs/{job id}/input/{name}             what was sent along with the job: an archive of pictures
    {tenant}/jobs/{job id}/snapshots/{attempt}-{step}   what an unfinished run has reached; gone when it has ended
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from shared.errors import NotFound, ObjectStoreUnavailable
from shared.settings import Settings

__all__ = [
    "ObjectStore",
    "StoredObject",
    "artifact_key",
    "image_key",
    "input_key",
    "job_prefix",
    "s3_client",
    "snapshot_key",
    "snapshot_prefix",
]


@dataclass(frozen=True)
class StoredObject:
    """What the store holds under `key`. `sha256` is of the content, hex."""

    key: str
    bytes: int
    sha256: str
    content_type: str


def image_key(tenant: str, sha256: str) -> str:
    """Where an uploaded picture lies; content-addressed, so a second upload is the same object."""
    return f"{tenant}/images/{sha256}"


def job_prefix(tenant: str, job_id: str) -> str:
    """Everything any attempt of the job wrote."""
    return f"{tenant}/jobs/{job_id}/"


def artifact_key(tenant: str, job_id: str, attempt: int, name: str) -> str:
    """Where one attempt puts the artifact `name`."""
    return f"{job_prefix(tenant, job_id)}a{attempt}/{name}"


def input_key(tenant: str, ref: str) -> str:
    """Where that lies which a spec names as `<job id>/<name>`: it was sent along with that job."""
    job_id, _, name = ref.partition("/")
    return f"{job_prefix(tenant, job_id)}input/{name}"


def snapshot_prefix(tenant: str, job_id: str) -> str:
    """Every snapshot of the job's runs."""
    return f"{job_prefix(tenant, job_id)}snapshots/"


def snapshot_key(tenant: str, job_id: str, attempt: int, step: int) -> str:
    """Where one attempt saves what it reached after `step`."""
    return f"{snapshot_prefix(tenant, job_id)}{attempt}-{step:06d}"


@contextmanager
def _translated(key: str = "") -> Iterator[None]:
    """boto's errors become ours, here and nowhere else."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in {"404", "NoSuchKey", "NotFound"}:
            raise NotFound(f"no object {key}") from error
        raise ObjectStoreUnavailable(f"object store refused: {code or error}") from error
    except BotoCoreError as error:
        raise ObjectStoreUnavailable(f"object store unreachable: {type(error).__name__}") from error


class ObjectStore:
    """put, get, head, presign, delete. Thread-safe: boto3 clients are. Does not retry beyond one quick second try."""

    def __init__(self, settings: Settings) -> None:
        self.bucket = settings.s3_bucket
        self._presign_ttl_s = settings.presign_ttl_s
        self._client = s3_client(settings, settings.s3_endpoint)
        self._public = (
            self._client
            if settings.public_s3_endpoint == settings.s3_endpoint
            else s3_client(settings, settings.public_s3_endpoint)
        )

    def ensure_bucket(self) -> None:
        """Create the bucket when it is missing."""
        try:
            self._client.head_bucket(Bucket=self.bucket)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in {"404", "NoSuchBucket", "NotFound"}:
                raise ObjectStoreUnavailable(f"object store refused the bucket {self.bucket}: {error}") from error
            with _translated():
                self._client.create_bucket(Bucket=self.bucket)
        except BotoCoreError as error:
            raise ObjectStoreUnavailable(f"object store unreachable: {type(error).__name__}") from error

    def put(self, key: str, body: bytes, content_type: str) -> StoredObject:
        """Store `body`; its sha256 travels as metadata. Overwrites. Raises ObjectStoreUnavailable where the store says
        that something else arrived."""
        sha256 = hashlib.sha256(body).hexdigest()
        with _translated(key):
            reply = self._client.put_object(
                Bucket=self.bucket, Key=key, Body=body, ContentType=content_type, Metadata={"sha256": sha256}
            )
        md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
        if reply.get("ETag", "").strip('"') != md5 and not self._has(key, body):  # not every store's ETag is an MD5
            raise ObjectStoreUnavailable(f"the object store holds something else under {key} than was sent")
        return StoredObject(key, len(body), sha256, content_type)

    def put_file(self, key: str, file: BinaryIO, content_type: str, *, sha256: str) -> StoredObject:
        """Store all of a file without holding it in memory. `sha256`: of its content, which the caller knows already.
        Raises ObjectStoreUnavailable where the store holds fewer bytes then."""
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        with _translated(key):
            self._client.put_object(
                Bucket=self.bucket, Key=key, Body=file, ContentType=content_type, Metadata={"sha256": sha256}
            )
        if (stored := self.head(key)).bytes != size:
            raise ObjectStoreUnavailable(f"the object store holds {stored.bytes} bytes under {key}, not {size}")
        return StoredObject(key, size, sha256, content_type)

    def _has(self, key: str, body: bytes) -> bool:
        try:
            return self.get(key) == body
        except NotFound:
            return False

    def get(self, key: str) -> bytes:
        """The whole object. Raises NotFound."""
        with _translated(key):
            body: bytes = self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body

    def stream(self, key: str, chunk_bytes: int = 256 * 1024) -> tuple[StoredObject, Iterator[bytes]]:
        """The object piece by piece, for passing on. Raises NotFound at once, not at the first piece."""
        with _translated(key):
            reply = self._client.get_object(Bucket=self.bucket, Key=key)
        return _described(key, reply), _pieces(key, reply["Body"].iter_chunks(chunk_bytes))

    def head(self, key: str) -> StoredObject:
        """What is there, without reading it. Raises NotFound."""
        with _translated(key):
            reply = self._client.head_object(Bucket=self.bucket, Key=key)
        return _described(key, reply)

    def presign(self, key: str, *, file_name: str, content_type: str) -> str:
        """A GET URL on the public endpoint, valid `presign_ttl_s`; pins the answer's type and file name."""
        with _translated(key):
            url: str = self._public.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self.bucket,
                    "Key": key,
                    "ResponseContentType": content_type,
                    "ResponseContentDisposition": f'inline; filename="{file_name}"',
                },
                ExpiresIn=self._presign_ttl_s,
            )
        return url

    def delete(self, key: str) -> None:
        """Delete one object; a missing one is no error."""
        with _translated(key):
            self._client.delete_object(Bucket=self.bucket, Key=key)

    def delete_prefix(self, prefix: str) -> int:
        """Delete everything under `prefix`; how many objects went. Missing ones are no error."""
        deleted = 0
        with _translated(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                for item in page.get("Contents", []):
                    self._client.delete_object(Bucket=self.bucket, Key=item["Key"])
                    deleted += 1
        return deleted

    def check(self) -> None:
        """Raise ObjectStoreUnavailable unless the bucket answers."""
        with _translated(self.bucket):
            self._client.head_bucket(Bucket=self.bucket)


def _pieces(key: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """What breaks off in the middle is the object store's fault, too."""
    with _translated(key):
        yield from pieces


def _described(key: str, reply: dict[str, Any]) -> StoredObject:
    sha256 = reply.get("Metadata", {}).get("sha256", "")
    return StoredObject(key, reply["ContentLength"], sha256, reply.get("ContentType", ""))


def s3_client(settings: Settings, endpoint: str) -> Any:
    """boto3's, as the settings say it. Its errors are boto's own."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=settings.s3_secret_key,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            connect_timeout=min(2.0, settings.s3_timeout_s),
            read_timeout=settings.s3_timeout_s,
            retries={"total_max_attempts": 2, "mode": "standard"},
            max_pool_connections=32,
        ),
    )
