"""The OpenAPI document: paths from flask-openapi3, schemas from pydantic itself, request bodies from the specs."""

from __future__ import annotations

import copy
from typing import Any, get_args

from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.schemas import jobs as schemas
from api.schemas import search as search_schemas
from shared.specs.kinds import Spec
from shared.version import VERSION

__all__ = ["INFO", "SECURITY", "openapi_document"]

INFO = Info(
    title="dreamqueue",
    version=VERSION,
    description="Text prompts become ranked pictures on a fleet of GPU workers. Give a job, then poll, wait or "
    "stream. Errors are problem documents (RFC 9457) with a stable `code`.",
)
SECURITY: dict[str, Any] = {
    "key": {"type": "http", "scheme": "bearer", "description": "dq_..., from `dreamqueue keys create`"}
}
REF = "#/components/schemas/{model}"
HIDDEN_PATHS = ("/ui/{name}", "/docs/{name}")
PARTS = ("index", "remove", "reembed", "duplicates", "group")  # kinds whose collection a path names
EXAMPLES: dict[str, dict[str, Any]] = {
    "dalle": {"prompts": ["a red apple"], "n": 16, "keep": 4},
    "vqgan_clip": {"prompts": "a green tree:1 | fog:-0.3", "iterations": 100, "size": [64, 64]},
    "unclip": {"prompts": ["a red apple"], "n": 16, "keep": 4},
    "rank": {"images": ["img_" + "0" * 64], "prompt": "a red apple"},
    "classify": {"images": ["img_" + "0" * 64], "labels": ["an apple", "a pear"]},
    "search": {"collection": "fruit", "text": "red fruit", "terms": [{"text": "an apple", "weight": -0.5}]},
    "index": {"collection": "fruit", "images": [{"image": "img_" + "0" * 64, "metadata": {"colour": "red"}}]},
    "remove": {"collection": "fruit", "filter": {"field": "colour", "eq": "red"}},
    "reembed": {"collection": "fruit", "model": "emoji-clip"},
    "duplicates": {"collection": "fruit", "threshold": 0.95},
    "group": {"collection": "fruit", "k": 8},
    "probe": {"steps": 3},
}


def openapi_document(app: OpenAPI) -> dict[str, Any]:
    """The document of an app whose routes are all bound. Made once per process."""
    made: dict[str, Any] | None = app.extensions.get("dreamqueue.openapi")
    if made is None:
        made = app.extensions["dreamqueue.openapi"] = _generated(app)
    return made


def _generated(app: OpenAPI) -> dict[str, Any]:
    document: dict[str, Any] = copy.deepcopy(app.api_doc)
    for path in HIDDEN_PATHS:
        document["paths"].pop(path, None)
    for item in document["paths"].values():
        for operation in item.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]  # flask-openapi3's own validation, which we do not use
            _examples(operation)
    document["components"]["schemas"] = {**_answers(), **_requests()}
    return document


def _examples(operation: dict[str, Any]) -> None:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return
    asked = content["schema"]["$ref"].rpartition("/")[2]
    if asked == "JobRequest":
        content["examples"] = {kind: {"value": {"kind": kind, "input": example}} for kind, example in EXAMPLES.items()}
    for kind, example in EXAMPLES.items():
        if asked == f"{kind.capitalize()}Spec":
            content["example"] = example
        elif asked == f"{kind.capitalize()}Input":
            content["example"] = {field: value for field, value in example.items() if field != "collection"}


def _answers() -> dict[str, Any]:
    models = [getattr(module, name) for module in (schemas, search_schemas) for name in module.__all__]
    answers = [model for model in models if issubclass(model, schemas.Output)]
    _, document = models_json_schema([(model, "serialization") for model in answers], ref_template=REF)
    found: dict[str, Any] = document["$defs"]
    return found


def _requests() -> dict[str, Any]:
    """`JobRequest`: one schema per kind, told apart by `kind`; each `input` is the spec without its own `kind`."""
    specs: list[type[BaseModel]] = list(get_args(get_args(Spec)[0]))
    asked: list[type[BaseModel]] = [*specs, search_schemas.CollectionInput]
    _, document = models_json_schema([(model, "validation") for model in asked], ref_template=REF)
    found: dict[str, Any] = document["$defs"]
    mapping: dict[str, str] = {}
    for spec in specs:
        kind = spec.model_fields["kind"].default
        found[spec.__name__]["properties"].pop("kind")
        found[f"{spec.__name__}Job"] = _envelope(kind, spec.__name__)
        mapping[kind] = REF.format(model=f"{spec.__name__}Job")
        if kind in PARTS:
            found[f"{kind.capitalize()}Input"] = _part(found[spec.__name__])
    found["JobRequest"] = {
        "oneOf": [{"$ref": ref} for ref in mapping.values()],
        "discriminator": {"propertyName": "kind", "mapping": mapping},
    }
    return found


def _part(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec's schema without the collection, and without archives, which are sent and not named."""
    part = copy.deepcopy(spec)
    for field in ("collection", "archive"):
        part["properties"].pop(field, None)
    part["required"] = [field for field in part.get("required", []) if field != "collection"]
    return part


def _envelope(kind: str, spec_name: str) -> dict[str, Any]:
    schema = schemas.JobEnvelope.model_json_schema(ref_template=REF)
    schema["title"] = f"{spec_name}Job"
    schema["properties"]["kind"] = {"const": kind, "type": "string"}
    schema["properties"]["input"] = {"$ref": REF.format(model=spec_name)}
    return schema
