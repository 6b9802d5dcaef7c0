"""The door: from a request body to a job the store accepts and a worker can run. Whatever is wrong is named here."""

from __future__ import annotations

import hashlib
import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from pydantic import ValidationError

from api.auth import Principal
from api.problems import Rejected, rejected_by_schema
from api.schemas import JobEnvelope
from api.wiring import Services
from shared.errors import Expired, InvalidInput, NotFound
from shared.jobs import JobRecord, NewJob
from shared.specs import GENERATORS, ProbeSpec, Spec, VqganClipSpec, parse_spec, pictures_named
from shared.storage import image_key

__all__ = ["fingerprint", "job_again", "job_from_request"]

DRAWN_SEEDS = 2**53  # callers may send larger ones; ours survive a JSON reader that has only doubles
HEADS_AT_ONCE = 8  # object store look-ups in flight for one request


def job_from_request(
    services: Services, principal: Principal, body: Any, *, job_id: str, idempotency_key: str | None = None
) -> NewJob:
    """Validate everything a worker will rely on. Raises InvalidInput (also Rejected), Forbidden, Unavailable."""
    envelope = _envelope(body)
    spec = _spec(envelope)
    _check(services, principal, spec)
    return NewJob(
        id=job_id,
        tenant=principal.tenant,
        kind=envelope.kind,
        pool=services.settings.pool,
        spec=_resolved(spec).model_dump(mode="json"),
        priority=envelope.priority,
        deadline_s=envelope.deadline_s,
        metadata=envelope.metadata,
        idempotency_key=idempotency_key,
        fingerprint=fingerprint(body),
    )


def job_again(
    services: Services, principal: Principal, ended: JobRecord, *, job_id: str, idempotency_key: str | None = None
) -> NewJob:
    """A new job with an ended one's spec, seed included; checked again, since pictures and models come and go."""
    spec = parse_spec(ended.kind, ended.spec)
    _check(services, principal, spec)
    return NewJob(
        id=job_id,
        tenant=principal.tenant,
        kind=ended.kind,
        pool=services.settings.pool,
        spec=spec.model_dump(mode="json"),
        priority=ended.priority,
        metadata=ended.metadata,
        retry_of=ended.id,
        idempotency_key=idempotency_key,
        fingerprint=fingerprint({"retry_of": ended.id}),
    )


def fingerprint(body: Any) -> str:
    """The same for requests that say the same, whatever their spacing and order; taken before a seed is drawn."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _envelope(body: Any) -> JobEnvelope:
    try:
        return JobEnvelope.model_validate(body)
    except ValidationError as error:
        raise rejected_by_schema(error) from None


def _spec(envelope: JobEnvelope) -> Spec:
    if "kind" in envelope.input:
        raise InvalidInput("kind stands beside input, not in it", field="input.kind")
    try:
        return parse_spec(envelope.kind, envelope.input)
    except ValidationError as error:
        raise rejected_by_schema(error, prefix="input", skip=1) from None


def _resolved(spec: Spec) -> Spec:
    if spec.kind in GENERATORS and getattr(spec, "seed", 0) is None:
        return spec.model_copy(update={"seed": secrets.randbelow(DRAWN_SEEDS)})
    return spec


def _check(services: Services, principal: Principal, spec: Spec) -> None:
    """What the types alone cannot say."""
    if isinstance(spec, ProbeSpec):
        principal.require("admin")
        return
    _check_models(services, spec)
    _check_pictures(services, principal.tenant, spec)


# --- models ------------------------------------------------------------------------------------------------------


def _check_models(services: Services, spec: Spec) -> None:
    """Refuse a model no live worker holds. With no worker alive, the job may wait for one."""
    workers = services.fleet.pool(services.settings.pool).workers
    if not workers:
        return
    known = sorted({model["id"] for worker in workers for model in worker.models})
    for field, wanted in _models_named(spec):
        if wanted not in known:
            raise InvalidInput(f"no worker has the model {wanted}", field=field, limit=f"one of {', '.join(known)}")


def _models_named(spec: Spec) -> list[tuple[str, str]]:
    named = [("input.model", str(spec.model))] if hasattr(spec, "model") else []  # a collection's is its own
    if isinstance(spec, VqganClipSpec):
        named += [(f"input.perceptors.{index}", model) for index, model in enumerate(spec.perceptors)]
    return named


# --- pictures ----------------------------------------------------------------------------------------------------


def _check_pictures(services: Services, tenant: str, spec: Spec) -> None:
    """Refuse pictures this tenant does not have; another tenant's and an unknown one read the same."""
    fields = {f"input.{field}": ref for field, ref in pictures_named(spec).items()}
    refs = list(dict.fromkeys(fields.values()))
    if len(refs) <= 2:
        held = {ref: _is_held(services, tenant, ref) for ref in refs}
    else:
        with ThreadPoolExecutor(HEADS_AT_ONCE) as heads:
            held = dict(zip(refs, heads.map(lambda ref: _is_held(services, tenant, ref), refs), strict=True))
    missing = [field for field, ref in fields.items() if not held[ref]]
    if missing:
        _refuse_pictures(missing, fields)


def _refuse_pictures(missing: list[str], fields: dict[str, str]) -> NoReturn:
    raise Rejected(
        [
            {"field": field, "message": f"you have no picture {fields[field]}", "limit": "an uploaded picture's id, or "
             "<job id>/<artifact name>"}
            for field in missing[:20]
        ]
    )  # fmt: skip


def _is_held(services: Services, tenant: str, ref: str) -> bool:
    try:
        if ref.startswith("img_"):
            services.objects.head(image_key(tenant, ref.removeprefix("img_")))
            return True
        job_id, _, name = ref.partition("/")
        result = services.store.get(tenant, job_id).result or {}
    except (NotFound, Expired):
        return False
    return any(image["name"] == name for image in result.get("images") or [])
