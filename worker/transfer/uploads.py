"""Puts a run's artifacts into the object store, patiently: what the device made is not thrown away for an outage."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from shared.errors import Stopped
from shared.metrics import PICTURES, UPLOAD_RETRIES, UPLOADED_BYTES
from shared.storage import ObjectStore, StoredObject, artifact_key
from worker.run.context import JobContext
from worker.run.retry import retry_while_away
from worker.transfer.encode import Artifact, EncodedOutput

__all__ = ["Uploads"]


class Uploads:
    """Each attempt writes to a place of its own, so a late worker never overwrites a newer one's pictures."""

    def __init__(self, objects: ObjectStore, patience_s: float, threads: ThreadPoolExecutor) -> None:
        self._objects = objects
        self._patience_s = patience_s
        self._threads = threads

    def put(
        self, encoded: EncodedOutput, context: JobContext, keep_through: tuple[type[Stopped], ...]
    ) -> list[StoredObject]:
        """Store all artifacts; in their order. Raises ObjectStoreUnavailable when patience ends, and Stopped."""
        claim = context.claim

        def one(artifact: Artifact) -> StoredObject:
            key = artifact_key(claim.tenant, claim.id, claim.attempt, artifact.name)
            stored = retry_while_away(
                lambda: self._objects.put(key, artifact.body, artifact.content_type),
                context,
                self._patience_s,
                keep_through=keep_through,
                on_retry=UPLOAD_RETRIES.inc,
            )
            UPLOADED_BYTES.labels("artifact").inc(stored.bytes)
            return stored

        artifacts = encoded.artifacts
        if len(artifacts) < 2:
            stored = [one(artifact) for artifact in artifacts]
        else:
            stored = list(self._threads.map(one, artifacts))
        if encoded.pictures:
            PICTURES.labels(claim.kind).inc(len(encoded.pictures))
        return stored
