"""Whose a snapshot is. Only the same spec, on the same weights, in the same form goes on from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import structlog

from shared.specs.types import Spec
from worker.engines.base import Model

__all__ = ["FORM", "identity", "is_of"]

log = structlog.stdlib.get_logger(__name__)

FORM = "3"  # of snapshots; raise it with any change of what a saved number means


def identity(spec: Spec, models: Iterable[Model] = ()) -> dict[str, str]:
    """What must be equal: form, kind, digest of the spec, digests of the weights."""
    text = json.dumps(spec.model_dump(mode="json"), sort_keys=True)
    return {
        "form": FORM,
        "kind": spec.kind,
        "spec": hashlib.sha256(text.encode()).hexdigest(),
        "models": " ".join(f"{model.id}={model.sha256}" for model in models),
    }


def is_of(saved: Mapping[str, object], own: Mapping[str, str]) -> bool:
    """Whether what a snapshot says of itself fits this run; logs what differs."""
    differing = [name for name in own if saved.get(name) != own[name]]
    if differing:
        log.warning("snapshot ignored: it is of another run", differs=differing)
    return not differing
