"""Routes are declared in api/routes and bound to an app here, so a view is a plain function of a Call.

A route without `scope=` cannot be declared: what is open says `scope=OPEN`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flask import Response, request
from flask_openapi3.models.tag import Tag
from flask_openapi3.openapi import OpenAPI
from pydantic import BaseModel, ValidationError

from api.http.auth import Principal
from api.http.problems import rejected_by_schema
from api.http.services import Services
from api.schemas.jobs import Problem

__all__ = ["OPEN", "Call", "Route", "Routes", "bind", "problems"]

OPEN = ""
View = Callable[..., Response]
Responses = dict[int, Any]
DESCRIPTIONS = {
    400: "Malformed: not HTTP or not JSON",
    401: "No key, or a key nobody holds",
    403: "The key lacks the scope",
    404: "Unknown to you: no such id, or another tenant's",
    409: "Conflicts with what was accepted before, or the job has ended",
    410: "It was there; its retention is over",
    413: "The body is too large",
    415: "Not a content type this call takes",
    422: "A field is wrong; `errors` names it and its limit",
    429: "Your queue is full; see Retry-After",
    500: "An error of ours",
    502: "The job failed: its worker, or the model in it, could not do it",
    503: "A server this one needs does not answer; see Retry-After",
    504: "The job did not end by its deadline",
}


@dataclass(frozen=True)
class Call:
    """One authenticated request."""

    services: Services
    principal: Principal
    query: Any  # an instance of the route's query model

    @property
    def tenant(self) -> str:
        """Whose data this is about; from the key, never from the request."""
        return self.principal.tenant


@dataclass(frozen=True)
class Route:
    """A declared route."""

    method: str
    rule: str
    view: View
    scope: str
    responses: Responses
    query: type[BaseModel] | None = None
    headers: tuple[dict[str, Any], ...] = ()  # OpenAPI parameter objects
    openapi: dict[str, Any] = field(default_factory=dict)  # more of the operation object: requestBody


class Routes:
    """The routes of one resource, in order of declaration."""

    def __init__(self, tag: str, description: str) -> None:
        self.tag = Tag(name=tag, description=description)
        self.routes: list[Route] = []

    def add(
        self,
        method: str,
        rule: str,
        *,
        scope: str,
        responses: Responses,
        query: type[BaseModel] | None = None,
        headers: tuple[dict[str, Any], ...] = (),
        openapi: dict[str, Any] | None = None,
    ) -> Callable[[View], View]:
        """Declare a view. Its docstring documents the operation."""

        def declare(view: View) -> View:
            self.routes.append(Route(method, rule, view, scope, responses, query, headers, openapi or {}))
            return view

        return declare


def problems(*statuses: int) -> Responses:
    """Responses that are problem documents."""
    schema = {"$ref": f"#/components/schemas/{Problem.__name__}"}
    return {
        status: {
            "description": DESCRIPTIONS[status],
            "content": {"application/problem+json": {"schema": schema}},
        }
        for status in statuses
    }


def bind(app: OpenAPI, resource: Routes, services: Services) -> None:
    """Register a resource's routes on the app and in its OpenAPI document."""
    for route in resource.routes:
        always = (500, 503) if route.scope == OPEN else (401, 403, 422, 500, 503)
        register = getattr(app, route.method.lower())
        register(
            route.rule,
            tags=[resource.tag],
            operation_id=route.view.__name__,
            responses={**problems(*always), **route.responses},
            security=[{"key": []}] if route.scope else None,
            openapi_extensions={**route.openapi, **_parameters(route)},
        )(_bound(route, services))


def _bound(route: Route, services: Services) -> View:
    """The Flask view: authenticate, check the scope, read the query, call. It names no model in its annotations, and so
    flask-openapi3 has nothing to validate, for which it would build a JSON schema per request."""
    nobody = Principal("", "", frozenset())

    def view() -> Response:
        principal = nobody
        if route.scope:
            principal = services.authenticator.principal(request.headers.get("Authorization"))
            principal.require(route.scope)
        query = _query(route.query) if route.query else None
        return route.view(Call(services, principal, query), **(request.view_args or {}))

    view.__name__ = route.view.__name__
    view.__doc__ = route.view.__doc__
    return view


def _parameters(route: Route) -> dict[str, Any]:
    """What the path, the query and the headers hold, for the operation object."""
    names = re.findall(r"<(?:\w+:)?(\w+)>", route.rule)
    path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "title": _title(name)}}
        for name in names
    ]
    return {"parameters": [*path, *_query_parameters(route.query), *route.headers]}


def _query_parameters(model: type[BaseModel] | None) -> Iterator[dict[str, Any]]:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}") if model else {}
    for name, described in schema.get("properties", {}).items():
        said = {key: described[key] for key in ("description", "deprecated", "example", "examples") if key in described}
        required = name in schema.get("required", [])
        yield {"name": name, "in": "query", "required": required, "schema": described, **said}


def _title(name: str) -> str:
    return name.replace("_", " ").title()


def _query(model: type[BaseModel]) -> BaseModel:
    try:
        return model.model_validate(request.args.to_dict())
    except ValidationError as error:
        raise rejected_by_schema(error) from None
