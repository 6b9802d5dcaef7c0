"""The job that follows from another one: what a job made goes into its tenant's collection."""

from __future__ import annotations

import uuid

from shared.records.job import Claim, NewJob
from shared.specs.clip import GENERATED, IndexSpec

__all__ = ["follow_up_of"]


def follow_up_of(claim: Claim, pool: str) -> NewJob | None:
    """What puts a job's pictures into its tenant's collection, if the job says so: always the same job."""
    if not claim.spec.get("collect"):
        return None
    spec = IndexSpec(collection=GENERATED, job=claim.id)
    return NewJob(
        id=str(uuid.uuid5(uuid.UUID(claim.id), GENERATED)),
        tenant=claim.tenant,
        kind=spec.kind,
        pool=pool,
        spec=spec.model_dump(mode="json"),
        priority="low",
        metadata={"follows": claim.id},
        request_id=claim.request_id,
    )
