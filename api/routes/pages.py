"""The web page, the OpenAPI document, and the page that shows it. Everything is served from here: no CDN."""

from __future__ import annotations

import json
import mimetypes
import re
from importlib import resources
from importlib.resources.abc import Traversable
from typing import cast

from flask import Response, current_app
from flask_openapi3.openapi import OpenAPI

from api.http.routing import OPEN, Call, Routes, problems
from api.schemas.openapi import openapi_document
from shared.errors import NotFound

__all__ = ["routes"]

DOCUMENT = {"description": "OpenAPI 3.1", "content": {"application/json": {"schema": {"type": "object"}}}}
HTML = {"description": "The page", "content": {"text/html": {"schema": {"type": "string"}}}}
FILE = {"description": "The file", "content": {"*/*": {"schema": {"type": "string"}}}}
ASSET = re.compile(r"^[a-z0-9][a-z0-9_.-]*$")
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DOCS_POLICY = PAGE_POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")  # Swagger UI sets styles
SWAGGER_PARTS = {
    "swagger-ui.css": ("css", "text/css"),
    "swagger-ui-bundle.js": ("js", "text/javascript"),
    "swagger-ui-standalone-preset.js": ("js", "text/javascript"),
}

routes = Routes("pages", "For people")


@routes.add("GET", "/openapi.json", scope=OPEN, responses={200: DOCUMENT})
def get_openapi(_call: Call) -> Response:
    """This document, generated from the code that serves it."""
    return Response(json.dumps(openapi_document(cast(OpenAPI, current_app))), mimetype="application/json")


@routes.add("GET", "/", scope=OPEN, responses={200: HTML})
def get_page(_call: Call) -> Response:
    """The web page: submit, watch, look."""
    return _file(resources.files("api") / "ui" / "index.html", "text/html", PAGE_POLICY)


@routes.add("GET", "/ui/<name>", scope=OPEN, responses={200: FILE, **problems(404)})
def get_page_part(_call: Call, name: str) -> Response:
    """A script or style of the web page."""
    part = resources.files("api") / "ui" / name
    if not ASSET.fullmatch(name) or not part.is_file():
        raise NotFound(f"no file {name[:64]}")
    return _file(part, mimetypes.guess_type(name)[0] or "application/octet-stream", PAGE_POLICY)


@routes.add("GET", "/docs", scope=OPEN, responses={200: HTML})
def get_docs(_call: Call) -> Response:
    """This API, readable; works without network."""
    return _file(resources.files("api") / "ui" / "docs.html", "text/html", DOCS_POLICY)


@routes.add("GET", "/docs/<name>", scope=OPEN, responses={200: FILE, **problems(404)})
def get_docs_part(_call: Call, name: str) -> Response:
    """A part of Swagger UI, from the package flask-openapi3-swagger."""
    if name not in SWAGGER_PARTS:
        raise NotFound(f"no file {name[:64]}")
    folder, content_type = SWAGGER_PARTS[name]
    part = resources.files("flask_openapi3_swagger") / "templates" / "swagger" / folder / name
    return _file(part, content_type, DOCS_POLICY)


def _file(part: Traversable, content_type: str, policy: str) -> Response:
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}
    return Response(part.read_bytes(), headers=headers, mimetype=content_type)
