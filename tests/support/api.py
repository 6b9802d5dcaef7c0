"""The API in tests: in this process for speed, as gunicorn where processes, sockets or streams matter."""

from __future__ import annotations

import io
import sys
import urllib.request
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from api.http.auth import SCOPES, KeyStore
from deploy.local.processes import Command, Process, wait_until
from deploy.local.servers import free_port
from shared.records.job import Claim, JobState
from shared.settings import ENV_PREFIX, Settings
from shared.storage import ObjectStore, artifact_key
from shared.store import keys
from shared.store.jobs import JobStore
from shared.store.workers import WorkerInfo
from tests.support.polling import PATIENCE_S

__all__ = ["DALLE", "ApiServer", "Caller", "StandIn", "is_healthy", "new_key", "picture"]

DALLE: dict[str, Any] = {"kind": "dalle", "input": {"prompts": ["a red apple"], "n": 2}}


def picture(colour: str = "red", size: tuple[int, int] = (8, 8), form: str = "PNG") -> bytes:
    """A real encoded picture."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, form)
    return buffer.getvalue()


@dataclass(frozen=True)
class Caller:
    """One key's view of an app in this process."""

    http: FlaskClient
    key: str

    def call(self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any) -> TestResponse:
        """A request with the key."""
        return self.http.open(
            path, method=method, headers={"Authorization": f"Bearer {self.key}", **(headers or {})}, **options
        )

    def get(self, path: str, **headers: str) -> TestResponse:
        """GET; underscores in header names become dashes."""
        return self.call("GET", path, {name.replace("_", "-"): value for name, value in headers.items()})

    def post(self, path: str, json: Any = None, **headers: str) -> TestResponse:
        """POST JSON, or nothing."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.call("POST", path, named, **({} if json is None else {"json": json}))

    def submit(self, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """An accepted job."""
        answer = self.post("/v1/jobs", body or DALLE)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json
        return job

    def count(self) -> int:
        """How many jobs this key's tenant has."""
        return len(self.get("/v1/jobs?limit=200").json["jobs"])


@dataclass(frozen=True)
class StandIn:
    """A worker reduced to what it writes: claims, previews, results."""

    store: JobStore
    objects: ObjectStore
    pool: str
    names: list[str] = field(default_factory=list)  # of those it announced

    def claim(self, job_id: str | None = None) -> Claim:
        """The pool's next job; with an id, that one, and whatever lay before it is finished on the way."""
        while True:
            claim = self.store.claim(self.pool, "stand-in")
            assert claim is not None, "nothing was ready"
            if job_id in (None, claim.id):
                return claim
            self.finish(claim)

    def preview(self, claim: Claim, step: int, body: bytes) -> str:
        """A preview as a worker stores and reports it; its name."""
        name = f"preview-{step:06d}.png"
        key = artifact_key(claim.tenant, claim.id, claim.attempt, name)
        self.objects.put(key, body, "image/png")
        preview = {"name": name, "key": key, "step": step}
        progress = {"fraction": step / 100, "stage": "sample", "step": step, "total": 100, "preview": preview}
        self.store.progress(claim, progress, event="preview", data={**preview, "fraction": step / 100})
        return name

    def finish(self, claim: Claim, bodies: Iterable[bytes] = (), **data: Any) -> None:
        """Store pictures and commit them."""
        images = []
        for index, body in enumerate(bodies):
            name = f"{index:03d}.png"
            stored = self.objects.put(artifact_key(claim.tenant, claim.id, claim.attempt, name), body, "image/png")
            images.append(
                {"name": name, "key": stored.key, "seed": 7, "index": index, "score": 0.3, "width": 8, "height": 8,
                 "bytes": stored.bytes, "sha256": stored.sha256, "prompt": "a red apple"}
            )  # fmt: skip
        result = {"images": images, "files": [], "parameters": {"n": 2}, "models": [], "software": "test", **data}
        assert self.store.commit(claim, result, {"queue_s": 0.1, "run_s": 0.2}) in set(JobState)

    def announce(self, models: Iterable[str], *, slots: int = 2) -> None:
        """Show up as a live worker of the pool, until leave(): no beat of it can be late."""
        described = [
            {"id": model, "family": "clip" if "clip" in model else "test", "sha256": "0" * 64} for model in models
        ]
        name = f"w-{uuid.uuid4().hex[:8]}"
        self.store.fleet.announce(WorkerInfo(name, self.pool, ["dalle"], described, "cpu", slots, 0, "ready", "0", 1))
        self.store.redis.persist(keys.worker(name))
        self.names.append(name)

    def leave(self) -> None:
        """Be gone."""
        while self.names:
            self.store.fleet.depart(self.names.pop())


class ApiServer:
    """gunicorn with our configuration, on a free port. Ready when the constructor returns."""

    def __init__(
        self, settings: Settings, folder: Path, *, processes: int = 2, port: int = 0, env: dict[str, str] | None = None
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        values = {**settings.model_dump(), "bind": f"127.0.0.1:{self.port}", "api_processes": processes}
        env = {**{ENV_PREFIX + name.upper(): str(value) for name, value in values.items()}, **(env or {})}
        argv = [sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "api.wsgi:create()"]
        self.process = Process(Command("api", argv, env), folder / f"api-{self.port}.log")
        wait_until(lambda: is_healthy(f"{self.url}/healthz"), self.process, PATIENCE_S)

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return self.process.log_path.read_text(errors="replace")


def is_healthy(url: str) -> bool:
    """Whether a health page answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def new_key(store: JobStore, tenant: str, *scopes: str) -> str:
    """A key of the tenant, with all scopes unless some are named."""
    return KeyStore(store.redis).create(tenant, scopes or SCOPES)
