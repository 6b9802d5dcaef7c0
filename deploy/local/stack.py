"""The embedded stack: Redis, object store, API and workers as child processes of one supervisor.

Everything lies in one data folder, so a stack is stopped, moved and deleted as a whole:
    redis/ objects/         what the servers keep
    spool/                  outputs of workers until they are in objects/
    vectors/                collections' vectors, shared by all workers
    logs/NAME.log           what each process said
    run/NAME.pid            process ids, while they run; run/lock is held by the supervisor
    api-key                 the development key, mode 0600
    objects.json            the object store's credentials, mode 0600

A child that ends by itself is started again on the same port. Processes the stack did not start are never touched.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from api.http.auth import SCOPES, KeyStore
from deploy.local.processes import Command, Process, wait_until
from deploy.local.servers import (
    BIND,
    Credentials,
    bucket_is_there,
    free_port,
    object_server,
    redis_answers,
    redis_server,
)
from shared.records.reading import record_from_json
from shared.settings import ENV_PREFIX, Settings
from shared.specs.kinds import kinds_served
from shared.storage import ObjectStore
from shared.store.redis import connect

__all__ = ["Stack", "StackError", "StackOptions"]

SEARCH = "search"  # a kind, and the pool of the worker that serves nothing else: no search waits behind a picture
TENANT = "local"  # who owns the development key
RESTART_DELAYS_S = (0.2, 0.5, 1.0, 2.0, 5.0)  # a child that keeps dying is started ever more slowly
STEADY_S = 30.0  # after running this long a child's next death counts as its first


class StackError(Exception):
    """The stack cannot start; the message tells the operator what to do."""


@dataclass(frozen=True)
class StackOptions:
    """What the operator chose."""

    data: Path
    port: int = 8000
    workers: int = 1
    api_processes: int = 2
    env: dict[str, str] | None = None  # more settings for the API and the workers


@dataclass
class _Child:
    """A child that is kept running."""

    command: Command
    process: Process
    started_at: float
    deaths: int = 0


class Stack:
    """Start, supervise and stop. Use as a context manager; `start` returns when a worker is ready."""

    def __init__(self, options: StackOptions, say: Callable[[str], None] = print) -> None:
        self.options = options
        self.data = options.data.resolve()
        self.url = f"http://{BIND}:{options.port}"
        self.api_key = ""
        self._say = say
        self._children: dict[str, _Child] = {}
        self._lock: IO[str] | None = None
        self._stopping = False
        self._worker_stop_s = _worker_stop_s(options.env or {})

    # --- start ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Bring everything up. Raises StackError or ProcessFailed, and leaves nothing running then."""
        try:
            self._acquire()
            self._start_servers()
            self._start_api()
            self._start_workers()
        except BaseException:
            self.stop()
            raise

    def _acquire(self) -> None:
        (self.data / "run").mkdir(parents=True, exist_ok=True)
        self._lock = (self.data / "run" / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(f"another stack runs on {self.data}; choose another folder: DATA=...") from None
        if free_port(self.options.port) != self.options.port:
            raise StackError(f"port {self.options.port} is taken; choose another one: PORT=...")

    def _start_servers(self) -> None:
        credentials = self._credentials()
        redis_port, objects_port = free_port(), free_port()
        self.settings = Settings(
            redis_url=f"redis://{BIND}:{redis_port}/0",
            s3_endpoint=f"http://{BIND}:{objects_port}",
            s3_access_key=credentials.access_key,
            s3_secret_key=credentials.secret_key,
        )
        redis_child = self._spawn(redis_server(self.data / "redis", redis_port))
        objects_child = self._spawn(object_server(self.data / "objects", objects_port, credentials))
        objects = ObjectStore(self.settings)
        wait_until(lambda: redis_answers(redis_port), redis_child, 60)
        wait_until(lambda: bucket_is_there(objects), objects_child, 60)

    def _start_api(self) -> None:
        client = connect(self.settings)
        self.api_key = _kept_secret(
            self.data / "api-key", lambda: KeyStore(client).create(TENANT, sorted(SCOPES)) + "\n"
        ).strip()
        client.close()
        argv = [sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "api.wsgi:create()"]
        env = self._env(bind=f"{BIND}:{self.options.port}", api_processes=str(self.options.api_processes))
        wait_until(lambda: _ok(f"{self.url}/readyz"), self._spawn(Command("api", argv, env=env)), 60)

    def _start_workers(self) -> None:
        for number in range(1, self.options.workers + 1):
            name = f"worker-{number}"
            self._start_worker(name, kinds=",".join(kind for kind in self._kinds if kind != SEARCH))
        if SEARCH in self._kinds and self.options.workers:
            self._start_worker("worker-search", pool=SEARCH, kinds=SEARCH, cpu_threads="1")
        if self.options.workers:
            wait_until(self._all_workers_ready, self._children["worker-1"].process, 120)

    @property
    def _kinds(self) -> list[str]:
        """What the operator lets workers serve."""
        chosen = (self.options.env or {}).get(ENV_PREFIX + "KINDS") or Settings.from_env().kinds
        return kinds_served(chosen)

    def _start_worker(self, name: str, **own: str) -> None:
        env = self._env(
            worker_name=f"{name}-{secrets.token_hex(3)}",
            worker_metrics_port="0",
            spool_dir=str(self.data / "spool"),
        )
        env |= {ENV_PREFIX + setting.upper(): value for setting, value in own.items()}
        self._spawn(Command(name, [sys.executable, "-m", "worker"], env=env))

    def _env(self, **own: str) -> dict[str, str]:
        """The environment of a child: where the servers are, its own settings, what the operator chose."""
        shared = {
            name: getattr(self.settings, name)
            for name in ("redis_url", "s3_endpoint", "s3_access_key", "s3_secret_key")
        }
        search = {"vectors_url": str(self.data / "vectors"), "search_pool": SEARCH, "collect_generated": "true"}
        named = {ENV_PREFIX + name.upper(): value for name, value in {**shared, **search, **own}.items()}
        return {**named, **(self.options.env or {})}

    def _credentials(self) -> Credentials:
        made = _kept_secret(
            self.data / "objects.json",
            lambda: json.dumps({"access_key": "dreamqueue", "secret_key": secrets.token_urlsafe(24)}),
        )
        return record_from_json(Credentials, made)

    def _all_workers_ready(self) -> bool:
        request = urllib.request.Request(f"{self.url}/v1/pools", headers={"Authorization": f"Bearer {self.api_key}"})
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                pools = json.load(reply)["pools"]
        except (urllib.error.URLError, OSError):
            return False
        ready: int = sum(pool["ready_workers"] for pool in pools)
        return ready >= len(self.worker_processes())

    def _spawn(self, command: Command) -> Process:
        process = Process(
            command, self.data / "logs" / f"{command.name}.log", self.data / "run" / f"{command.name}.pid"
        )
        known = self._children.get(command.name)
        self._children[command.name] = _Child(command, process, time.monotonic(), known.deaths if known else 0)
        return process

    def worker_processes(self) -> list[Process]:
        """The running workers, in order."""
        return [child.process for name, child in self._children.items() if name.startswith("worker")]

    # --- run and stop --------------------------------------------------------------------------------------------

    def supervise(self) -> None:
        """Keep the children running until stop() is called from a signal handler, or for ever."""
        while not self._stopping:
            for child in list(self._children.values()):
                if child.process.exit_code is not None and not self._stopping:
                    self._restart(child)
            time.sleep(0.1)

    def _restart(self, child: _Child) -> None:
        name, code = child.command.name, child.process.exit_code
        child.deaths = 1 if time.monotonic() - child.started_at > STEADY_S else child.deaths + 1
        delay_s = RESTART_DELAYS_S[min(child.deaths, len(RESTART_DELAYS_S)) - 1]
        self._say(f"{name} ended with {code}; starting it again in {delay_s:g} s (see {child.process.log_path})")
        child.process.kill()  # what it left of its group would hold its port; also closes its log
        time.sleep(delay_s)
        if not self._stopping:
            self._spawn(child.command)

    def request_stop(self) -> None:
        """Make supervise() return. Safe in a signal handler."""
        self._stopping = True

    def stop(self) -> None:
        """Stop what was started, in order: no new jobs, workers drain, then the servers. Idempotent."""
        self._stopping = True
        for group in (("api",), tuple(n for n in self._children if n.startswith("worker")), ("objects",), ("redis",)):
            running = [self._children.pop(name) for name in group if name in self._children]
            for child in running:
                child.process.terminate()
            for child in running:
                child.process.stop(grace_s=self._worker_stop_s if child.command.name.startswith("worker") else 10.0)
        if self._lock:
            self._lock.close()
            self._lock = None


def _worker_stop_s(env: dict[str, str]) -> float:
    """How long a worker may take to stop: by the settings it gets, its own ones first."""
    has_own = ENV_PREFIX + "DRAIN_GRACE_S" in env
    return (Settings.from_env(env) if has_own else Settings.from_env()).stop_within_s


def _ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _kept_secret(path: Path, make: Callable[[], str]) -> str:
    """The file's content; made once, readable by its owner only."""
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(make())
    return path.read_text()
