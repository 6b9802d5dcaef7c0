"""The door: from a request body to a job the store accepts and a worker can run. Whatever is wrong is named here."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from api.http.auth import Principal
from api.http.problems import Rejected, rejected_by_schema
from api.http.services import Services
from api.schemas.jobs import JobEnvelope
from api.submission.checks import SpecChecker
from shared.errors import InvalidInput
from shared.records.job import PRIORITIES, JobRecord, NewJob
from shared.settings import Settings
from shared.specs.kinds import kinds, parse_spec, read_spec
from shared.specs.types import Spec

__all__ = ["SubmitOptions", "fingerprint", "job_again", "job_from_input", "job_from_request"]

DRAWN_SEEDS = 2**53  # callers may send larger ones; ours survive a JSON reader that has only doubles


@dataclass(frozen=True)
class SubmitOptions:
    """How a job is asked for."""

    job_id: str
    idempotency_key: str | None = None
    fingerprint_of: Any = None  # what must be equal for a repeat to be the same submission; the input if left out
    archive_ref: str = ""  # the spec's name of an archive in the same request, which need not be stored yet


def job_from_request(
    services: Services, principal: Principal, body: Any, *, job_id: str, idempotency_key: str | None = None
) -> NewJob:
    """Validate everything a worker will rely on. Raises InvalidInput (also Rejected), Forbidden, NotFound, Conflict,
    Unavailable."""
    try:
        envelope = JobEnvelope.model_validate(body)
    except ValidationError as error:
        raise rejected_by_schema(error) from None
    if "kind" in envelope.input:
        raise InvalidInput("kind stands beside input, not in it", field="input.kind")
    spec = _spec(envelope.kind, envelope.input, "input")
    pool = SpecChecker(services, principal).checked(spec)
    return NewJob(
        id=job_id,
        tenant=principal.tenant,
        kind=envelope.kind,
        pool=pool,
        spec=_resolved(spec, services.settings).model_dump(mode="json"),
        priority=envelope.priority,
        deadline_s=envelope.deadline_s,
        metadata=envelope.metadata,
        idempotency_key=idempotency_key,
        fingerprint=fingerprint(body),
        result_ttl_s=_result_ttl_s(spec, services.settings),
    )


def job_from_input(services: Services, principal: Principal, kind: str, input_: Any, options: SubmitOptions) -> NewJob:
    """A job of a known kind from the fields of its spec alone. Raises as job_from_request."""
    if not isinstance(input_, dict):
        raise InvalidInput("should be a JSON object")
    if "kind" in input_:
        raise Rejected([{"field": "kind", "message": "unknown field", "limit": ""}])
    spec = _spec(kind, input_, "")
    pool = SpecChecker(services, principal, at="", archive_ref=options.archive_ref).checked(spec)
    return NewJob(
        id=options.job_id,
        tenant=principal.tenant,
        kind=kind,
        pool=pool,
        spec=_resolved(spec, services.settings).model_dump(mode="json"),
        idempotency_key=options.idempotency_key,
        fingerprint=fingerprint(
            {"kind": kind, "input": input_ if options.fingerprint_of is None else options.fingerprint_of}
        ),
        result_ttl_s=_result_ttl_s(spec, services.settings),
    )


def job_again(
    services: Services, principal: Principal, ended: JobRecord, *, job_id: str, idempotency_key: str | None = None
) -> NewJob:
    """A new job with an ended one's spec, seed included; checked again, since pictures and models come and go."""
    try:
        spec = read_spec(ended.kind, ended.spec)
    except ValidationError as error:
        raise rejected_by_schema(error, prefix="input", skip=1) from None
    pool = SpecChecker(services, principal).checked(spec)
    return NewJob(
        id=job_id,
        tenant=principal.tenant,
        kind=ended.kind,
        pool=pool,
        spec=spec.model_dump(mode="json"),
        priority=ended.priority if ended.priority in PRIORITIES else "normal",
        metadata=ended.metadata,
        retry_of=ended.id,
        idempotency_key=idempotency_key,
        fingerprint=fingerprint({"retry_of": ended.id}),
        result_ttl_s=_result_ttl_s(spec, services.settings),
    )


def fingerprint(body: Any) -> str:
    """The same for requests that say the same, whatever their spacing and order; taken before a seed is drawn."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _spec(kind: str, input_: dict[str, Any], prefix: str) -> Spec:
    try:
        return parse_spec(kind, input_)
    except ValidationError as error:
        raise rejected_by_schema(error, prefix=prefix, skip=1) from None


def _resolved(spec: Spec, settings: Settings) -> Spec:
    """With what the caller left to us, so that the job echoes it and a retry repeats it."""
    if not kinds()[spec.kind].makes_pictures:
        return spec
    drawn: dict[str, Any] = {}
    if getattr(spec, "seed", 0) is None:
        drawn["seed"] = secrets.randbelow(DRAWN_SEEDS)
    if getattr(spec, "collect", False) is None:
        drawn["collect"] = settings.collect_generated
    return spec.model_copy(update=drawn)


def _result_ttl_s(spec: Spec, settings: Settings) -> float | None:
    """Searches are many and soon forgotten; everything else is kept as long as the settings say."""
    return settings.search_result_ttl_s if spec.kind == "search" else None
