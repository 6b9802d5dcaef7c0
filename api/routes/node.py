"""This node: liveness, readiness, metrics."""

from __future__ import annotations

import json

from flask import Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from api.http.routing import OPEN, Call, Routes
from api.schemas.jobs import Health
from shared.store.collector import StoreCollector
from shared.version import VERSION

__all__ = ["routes"]

TEXT = {"description": "Prometheus text", "content": {"text/plain": {"schema": {"type": "string"}}}}

routes = Routes("node", "This API node")


@routes.add("GET", "/healthz", scope=OPEN, responses={200: Health})
def get_health(_call: Call) -> Response:
    """Whether this process serves; looks at nothing else, so a shared fault takes no node out."""
    return _ok()


@routes.add("GET", "/readyz", scope=OPEN, responses={200: Health})
def get_readiness(call: Call) -> Response:
    """Whether this node can take jobs: job store and object store answer. Workers do not matter here."""
    call.services.store.ping()
    call.services.objects.check()
    return _ok()


@routes.add("GET", "/metrics", scope=OPEN, responses={200: TEXT})
def get_metrics(call: Call) -> Response:
    """This node's HTTP metrics over all its processes, and what the store knows of jobs, pools and workers."""
    of_store = CollectorRegistry()
    of_store.register(StoreCollector(call.services.store))
    text = generate_latest(_of_processes()) + generate_latest(of_store)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


def _ok() -> Response:
    return Response(json.dumps({"status": "ok", "version": VERSION}), mimetype="application/json")


def _of_processes() -> CollectorRegistry:
    """The sum over gunicorn's processes where PROMETHEUS_MULTIPROC_DIR is set (gunicorn_conf.py), else this one."""
    registry = CollectorRegistry()
    try:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    except ValueError:
        return REGISTRY
    return registry
