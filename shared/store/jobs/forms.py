"""How jobs go between Python and the Lua scripts: the one JSON form of a new job, and how to read what comes back."""

from __future__ import annotations

import json
from typing import Any

from shared.errors import UnreadableRecord
from shared.records.job import PRIORITIES, Claim, JobRecord, NewJob, saved_run
from shared.records.reading import FieldReader

__all__ = ["claim_of", "job_record", "job_to_json"]

CLAIM_FIELDS = ("tenant", "id", "kind", "attempt", "spec", "created_at", "queued_at", "deadline_at", "failures", "now",
                "snapshot", "alone", "error", "request_id")  # fmt: skip


def job_to_json(job: NewJob) -> str:
    """As submit.lua takes it, and commit.lua for the job that follows. What a job has not is an empty text there."""
    return json.dumps(
        {
            "tenant": job.tenant,
            "id": job.id,
            "pool": job.pool,
            "kind": job.kind,
            "spec": json.dumps(job.spec),
            "priority": job.priority,
            "offset_ms": PRIORITIES[job.priority],
            "deadline_ms": _milliseconds(job.deadline_s),
            "metadata": json.dumps(job.metadata),
            "retry_of": job.retry_of or "",
            "idempotency_key": job.idempotency_key or "",
            "fingerprint": job.fingerprint,
            "ttl_ms": _milliseconds(job.result_ttl_s),
            "request_id": job.request_id,
        }
    )


def _milliseconds(seconds: float | None) -> int | str:
    return "" if seconds is None else int(seconds * 1000)


def job_record(tenant: str, job_id: str, raw: dict[str, str]) -> JobRecord:
    """The record's hash as a record. Never raises."""
    return JobRecord.from_hash({"tenant": tenant, "id": job_id, **raw})


def claim_of(reply: list[Any]) -> Claim:
    """Raises UnreadableRecord where the worker could not tell what to do; what it can do without is left out."""
    read = FieldReader({name: str(value) for name, value in zip(CLAIM_FIELDS, reply, strict=True)})
    spec = read.optional_json("spec", dict)
    if spec is None or not read.text("kind"):
        raise UnreadableRecord("this job's record cannot be read: its kind or its spec makes no sense")
    return Claim(
        tenant=read.text("tenant"),
        id=read.text("id"),
        kind=read.text("kind"),
        attempt=read.integer("attempt"),
        spec=spec,
        created_at_ms=read.integer("created_at"),
        queued_at_ms=read.integer("queued_at"),
        deadline_at_ms=read.optional_integer("deadline_at"),
        failures=read.integer("failures"),
        claimed_at_ms=read.integer("now"),
        snapshot=saved_run(read.text("snapshot")),
        alone=read.text("alone") == "1",
        last_error_code=str(read.json("error", dict, {}).get("code", "")),
        request_id=read.text("request_id"),
    )
