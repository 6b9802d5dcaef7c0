"""The OpenAPI document: paths from flask-openapi3, schemas from pydantic itself, request bodies from the specs."""

from __future__ import annotations

import copy
from typing import Any

from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.schemas import jobs as schemas
from api.schemas import search as search_schemas
from shared.specs.kinds import Kind, kinds
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
        content["examples"] = {
            name: {"value": {"kind": name, "input": dict(kind.example)}} for name, kind in kinds().items()
        }
    for kind in kinds().values():
        if asked == _component(kind):
            content["example"] = dict(kind.example)
        elif asked == _part_name(kind):
            content["example"] = {field: value for field, value in kind.example.items() if field != "collection"}


def _answers() -> dict[str, Any]:
    models = [getattr(module, name) for module in (schemas, search_schemas) for name in module.__all__]
    answers = [model for model in models if issubclass(model, schemas.Output)]
    _, document = models_json_schema([(model, "serialization") for model in answers], ref_template=REF)
    found: dict[str, Any] = document["$defs"]
    return found


def _requests() -> dict[str, Any]:
    """`JobRequest`: one schema per kind, told apart by `kind`; each `input` is the spec without its own `kind`."""
    ours = [kind.spec for kind in kinds().values() if not kind.package]
    found = _schemas([*ours, search_schemas.CollectionInput])
    mapping: dict[str, str] = {}
    for name, kind in kinds().items():
        if kind.package:
            found |= _schemas([kind.spec], f"{name}.")
        component = _component(kind)
        found[component]["properties"].pop("kind")
        found[f"{component}Job"] = _envelope(name, component)
        mapping[name] = REF.format(model=f"{component}Job")
        if kind.is_part_of_collection:
            found[_part_name(kind)] = _part(found[component])
    found["JobRequest"] = {
        "oneOf": [{"$ref": ref} for ref in mapping.values()],
        "discriminator": {"propertyName": "kind", "mapping": mapping},
    }
    return found


def _schemas(asked: list[type[BaseModel]], prefix: str = "") -> dict[str, Any]:
    """By their names in the document; the prefix keeps those of other packages apart from ours."""
    template = REF.format(model=prefix + "{model}")
    _, document = models_json_schema([(model, "validation") for model in asked], ref_template=template)
    return {prefix + name: schema for name, schema in document["$defs"].items()}


def _component(kind: Kind) -> str:
    return f"{kind.name}.{kind.spec.__name__}" if kind.package else kind.spec.__name__


def _part_name(kind: Kind) -> str:
    return f"{kind.name.capitalize()}Input"


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
