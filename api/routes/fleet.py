"""/v1/models, /v1/pools, /v1/workers, /v1/kinds: what can run, where, and how deep the queues are."""

from __future__ import annotations

import json
from typing import Any

from flask import Response

from api.http.routing import Call, Routes
from api.schemas.documents import rfc3339
from api.schemas.jobs import ModelList, PoolList, WorkerList
from shared.store.workers import PoolInfo, WorkerInfo

__all__ = ["routes"]

routes = Routes("fleet", "What can run, and who is alive")


@routes.add("GET", "/v1/models", scope="jobs:read", responses={200: ModelList})
def list_models(call: Call) -> Response:
    """Every model some live worker holds, with its weights' SHA-256."""
    found: dict[str, dict[str, Any]] = {}
    for worker in call.services.store.fleet.workers():
        for model in worker.models:
            entry = found.setdefault(
                model["id"],
                {"id": model["id"], "family": model.get("family"), "sha256": model.get("sha256"), "pools": [],
                 "workers": 0},
            )  # fmt: skip
            entry["workers"] += 1
            if worker.pool not in entry["pools"]:
                entry["pools"].append(worker.pool)
    return _json({"models": [found[name] for name in sorted(found)]})


@routes.add("GET", "/v1/pools", scope="jobs:read", responses={200: PoolList})
def list_pools(call: Call) -> Response:
    """Every pool: ready and running jobs, ready workers, their slots."""
    return _json({"pools": [_pool(pool) for pool in call.services.store.fleet.pools()]})


@routes.add("GET", "/v1/workers", scope="jobs:read", responses={200: WorkerList})
def list_workers(call: Call) -> Response:
    """Every live worker."""
    return _json({"workers": [_worker(worker) for worker in call.services.store.fleet.workers()]})


def _pool(pool: PoolInfo) -> dict[str, Any]:
    return {
        "name": pool.name,
        "ready_workers": pool.ready_workers,
        "slots": sum(worker.slots for worker in pool.workers),
        "ready_jobs": pool.ready_jobs,
        "running_jobs": pool.running_jobs,
        "doorbells": pool.doorbells,
        "pace_s": pool.pace_s,
    }


def _worker(worker: WorkerInfo) -> dict[str, Any]:
    return {
        "name": worker.name,
        "pool": worker.pool,
        "kinds": worker.kinds,
        "models": worker.models,
        "device": worker.device,
        "slots": worker.slots,
        "busy": worker.busy,
        "state": worker.state,
        "version": worker.version,
        "started_at": rfc3339(worker.started_at_ms),
    }


def _json(document: object) -> Response:
    return Response(json.dumps(document), mimetype="application/json", headers={"Cache-Control": "no-store"})
