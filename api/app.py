"""The application factory. Nothing happens at import."""

from __future__ import annotations

import re
import secrets
import time

from flask import Flask, Response, g, request
from flask_openapi3.openapi import OpenAPI

from api.http.access_log import install_access_log
from api.http.problems import install_problems
from api.http.routing import bind
from api.http.services import Services, build_services
from api.routes import artifacts, collection_images, collections, events, fleet, images, jobs, node, pages, search
from api.schemas.jobs import Problem
from api.schemas.openapi import INFO, SECURITY
from shared.metrics import HTTP_IN_FLIGHT, HTTP_REQUESTS, HTTP_SECONDS
from shared.settings import Settings

__all__ = ["RESOURCES", "create_app"]

# In the order in which /docs shows them.
RESOURCES = (jobs, events, artifacts, images, collections, collection_images, search, fleet, node, pages)
REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # other ones share a label
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
API_POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"


def create_app(settings: Settings, services: Services | None = None) -> OpenAPI:
    """The WSGI application. Servers may be down: it answers 503 until they are up."""
    app = OpenAPI(
        "api",
        info=INFO,
        security_schemes=SECURITY,
        doc_ui=False,
        validation_error_model=Problem,
        static_folder=None,
    )
    app.config["MAX_CONTENT_LENGTH"] = settings.body_max_bytes
    app.config["MAX_FORM_PARTS"] = 20
    install_problems(app)
    _install_bookkeeping(app)
    if settings.access_log:
        install_access_log(app)
    services = services or build_services(settings)
    for resource in RESOURCES:
        bind(app, resource.routes, services)
    return app


def _install_bookkeeping(app: Flask) -> None:
    """Request ids, metrics, headers: around every request, errors included."""

    @app.before_request
    def begin() -> None:
        asked = request.headers.get("X-Request-ID", "")
        g.request_id = asked if REQUEST_ID.fullmatch(asked) else secrets.token_hex(8)
        g.began_at = time.perf_counter()
        HTTP_IN_FLIGHT.inc()

    @app.after_request
    def end(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule else "unmatched"
        method = request.method if request.method in METHODS else "other"
        HTTP_REQUESTS.labels(method, route, str(response.status_code)).inc()
        HTTP_SECONDS.labels(route).observe(time.perf_counter() - g.began_at)
        response.call_on_close(HTTP_IN_FLIGHT.dec)
        headers = response.headers
        headers["X-Request-ID"] = g.request_id
        headers.update(SAFE_HEADERS)
        headers.setdefault("Content-Security-Policy", API_POLICY)
        headers.setdefault("Cache-Control", "no-store")
        return response
