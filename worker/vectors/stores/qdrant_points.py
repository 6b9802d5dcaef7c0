"""Rows and filters as Qdrant has them: metadata under its own names, each condition typed by the column it is on."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
from qdrant_client import models

from shared.specs.filters import FieldType
from worker.vectors.conditions import Between, Complement, Every, Node, OneOf, Present, Some
from worker.vectors.index import Columns, Row, Vectors

__all__ = ["as_filter", "payload_key", "payload_of", "point_id", "row_of"]

NAMESPACE = uuid.UUID("5b0c1f9e-5a0e-4e0e-9a3b-0d6c1f6a7e11")  # of point ids; another one would orphan all rows


def point_id(row_id: str) -> str:
    """Qdrant takes numbers and UUIDs only."""
    return str(uuid.uuid5(NAMESPACE, row_id))


def payload_key(field: str) -> str:
    """Where a metadata field lies in a payload."""
    return f"m_{field}"


def payload_of(row: Row, revision: int, columns: Columns) -> dict[str, Any]:
    """All of a row but its vector."""
    payload = {
        payload_key(name): value if isinstance(value, str | bool) else float(value) + 0.0
        for name, value in row.metadata.items()
        if name in columns
    }
    return {"id": row.id, "revision": revision, "added_at_ms": row.added_at_ms, **payload}


def row_of(payload: dict[str, Any], vector: Any, columns: Columns) -> Row:
    """What a point holds."""
    metadata: dict[str, str | float | bool] = {}
    for name, column in columns.items():
        value = payload.get(payload_key(name))
        if value is not None:
            metadata[name] = float(value) if column.type == "number" else value
    found: Vectors = np.asarray(vector, np.float32)
    return Row(payload["id"], found, metadata, int(payload["added_at_ms"]), int(payload["revision"]))


def as_filter(node: Node) -> models.Filter:
    """For Qdrant, whose conditions are two-valued as ours are."""
    match node:
        case OneOf(name, column, values):
            return models.Filter(should=_equal(payload_key(name), column.type, values))
        case Between(name, _, gt, gte, lt, lte):
            key = payload_key(name)
            inside = models.FieldCondition(key=key, range=models.Range(gt=gt, gte=gte, lt=lt, lte=lte))
            return models.Filter(must=[inside])
        case Present(name):
            return models.Filter(
                must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=payload_key(name)))]
            )
        case Complement(part):
            return models.Filter(must_not=[as_filter(part)])
        case Every(parts):
            return models.Filter(must=list(map(as_filter, parts))) if parts else _all()
        case Some(parts):
            return models.Filter(should=list(map(as_filter, parts))) if parts else _none()


def _equal(key: str, type_: FieldType, values: tuple[str | bool | float, ...]) -> list[Any]:
    """Conditions of which one holds where the key has one of the values."""
    if type_ == "string":
        return [models.FieldCondition(key=key, match=models.MatchAny(any=[str(value) for value in values]))]
    if type_ == "boolean":
        return [models.FieldCondition(key=key, match=models.MatchValue(value=bool(value))) for value in values]
    exact = [float(value) + 0.0 for value in values]  # Qdrant matches whole numbers only
    return [models.FieldCondition(key=key, range=models.Range(gte=value, lte=value)) for value in exact]


def _none() -> models.Filter:
    return models.Filter(must=[models.HasIdCondition(has_id=[])])


def _all() -> models.Filter:
    return models.Filter(must_not=[models.HasIdCondition(has_id=[])])
