"""`make extras`: each extra, installed from a wheel of this tree with nothing else beside it, starts and does its work.

The API, a worker and the bare client run from three environments against real servers, and a picture goes through all
three. Then the worker's environment is completed to `local`, which contains it, and runs the whole stack by itself.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.local.processes import Command, Process, ProcessFailed, wait_until
from deploy.local.servers import free_port
from shared.settings import ENV_PREFIX, Settings
from shared.store.jobs import JobStore
from shared.store.redis import connect
from tests.support.api import is_healthy, new_key
from tests.support.servers import ObjectServer, RedisServer
from tests.support.stacks import RunningStack

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "out" / "extras"  # 6 GB while it runs, most of it torch
SOURCES = ("api", "worker", "shared", "deploy", "pyproject.toml", "README.md", "LICENSE")
START_S = 180.0  # a worker imports torch from a cold disk
JOB_S = 300.0
SUBMIT = ("submit", "dalle", "a red apple", "--n", "2", "--seed", "1", "--out")


class Broken(Exception):
    """An extra does not do what it is for."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment that holds dreamqueue with some extras, and what those need."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """For a child in it: no program of this machine's is found, no module but its own."""
        return {"PATH": str(self.folder / "bin"), "PYTHONPATH": ""}

    def script(self, name: str) -> str:
        """A command of it."""
        return str(self.folder / "bin" / name)

    def install(self, requirement: str) -> None:
        """Add a requirement to it."""
        run(
            self.script("python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile",
            "--constraint", str(ROOT / "constraints.txt"), requirement,
        )  # fmt: skip

    def lacks(self, *modules: str) -> None:
        """Raise Broken when it has one of these."""
        code = "import sys; from importlib.util import find_spec as f; print(*[m for m in sys.argv[1:] if f(m)])"
        found = run(self.script("python"), "-c", code, *modules, env=self.env).split()
        if found:
            raise Broken(f"{self.folder.name} has {', '.join(found)}, which belong to another part")


def main() -> int:
    """Check them one after the other; says which one broke."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    try:
        with contextlib.chdir(FOLDER):  # a Python that starts in the tree would import the tree
            check_all(FOLDER)
    except (Broken, ProcessFailed, AssertionError) as error:
        print(f"BROKEN {error}", flush=True)
        return 1
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    return 0


def check_all(folder: Path) -> None:
    """Raises what broke."""
    wheel = wheel_of_tree(folder)
    with servers(folder) as settings:
        client = connect(settings)
        store = JobStore(client, settings)
        api = made(folder / "api", f"{wheel}[api]")
        api.lacks("torch", "numpy", "lancedb")
        with running_api(api, settings) as url:
            caller = {ENV_PREFIX + "URL": url, ENV_PREFIX + "API_KEY": new_key(store, "extras")}
            bare = made(folder / "client", str(wheel))
            bare.lacks("flask", "gunicorn", "PIL", "numpy", "torch")
            with timed("client: dreamqueue --help"):
                run(bare.script("dreamqueue"), "--help", env=bare.env)
                run(bare.script("python"), "-c", "from api.client.client import DreamqueueClient", env=bare.env)
            worker = made(folder / "worker", f"{wheel}[worker]")
            worker.lacks("flask", "gunicorn", "gevent")
            with running_worker(worker, settings, store), timed("client, api, worker: a picture"):
                picture_from(bare, caller, folder / "pictures")
        client.close()
    with timed("local: installed"):
        worker.install(f"{wheel}[local]")
    with timed("local: dreamqueue up, a picture"):
        with_stack(worker, folder)


def wheel_of_tree(folder: Path) -> Path:
    """Built from a copy: setuptools leaves a build folder behind, and packs what an older one left there."""
    with timed("wheel"):
        copy = folder / "tree"
        copy.mkdir()
        for name in SOURCES:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(copy))
        return next(folder.glob("*.whl"))


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[Settings]:
    """Redis and an object store from this environment; the settings that point there."""
    redis, objects = RedisServer(folder / "redis"), ObjectServer(folder / "objects")
    try:
        yield Settings(redis_url=redis.url, worker_metrics_port=0, **objects.settings())  # type: ignore[arg-type]
    finally:
        redis.process.stop()
        objects.process.stop()


def environ(settings: Settings) -> dict[str, str]:
    """The settings as a process reads them."""
    return {ENV_PREFIX + name.upper(): str(value) for name, value in settings.model_dump().items()}


def made(folder: Path, requirement: str) -> Environment:
    """A fresh environment with one requirement."""
    with timed(f"{folder.name}: installed"):
        run(sys.executable, "-m", "venv", str(folder))
        environment = Environment(folder)
        environment.install(requirement)
    return environment


@contextlib.contextmanager
def running_api(api: Environment, settings: Settings) -> Iterator[str]:
    """gunicorn as the documents start it, healthy and ready; its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [api.script("gunicorn"), "-c", "python:api.gunicorn_conf", "api.wsgi:create()"]
    env = {**api.env, **environ(settings.model_copy(update={"bind": f"127.0.0.1:{port}"}))}
    process = Process(Command("gunicorn", argv, env), api.folder.parent / "api.log")
    try:
        with timed("api: gunicorn answers"):
            wait_until(lambda: is_healthy(f"{url}/healthz"), process, START_S)
            wait_until(lambda: is_healthy(f"{url}/readyz"), process, START_S)
        yield url
    finally:
        process.stop()


@contextlib.contextmanager
def running_worker(worker: Environment, settings: Settings, store: JobStore) -> Iterator[None]:
    """A worker that has loaded its models and says so."""
    env = {**worker.env, **environ(settings)}
    process = Process(
        Command("worker", [worker.script("python"), "-m", "worker"], env), worker.folder.parent / "worker.log"
    )
    try:
        with timed("worker: starts"):
            wait_until(lambda: bool(store.fleet.workers()), process, START_S)
        yield
    finally:
        process.stop(settings.stop_within_s)


def picture_from(environment: Environment, caller: dict[str, str], out: Path) -> None:
    """A job by the command line; waits for its pictures."""
    command = environment.script("dreamqueue")
    run(command, *SUBMIT, str(out), env={**environment.env, **caller})
    if len(list(out.rglob("*.png"))) != 2:
        raise Broken(f"submit left {[str(path) for path in out.rglob('*')]} instead of two pictures")


def with_stack(local: Environment, folder: Path) -> None:
    """`dreamqueue up`, with no Redis but the one among its packages; a picture; the end."""
    stack = RunningStack(folder / "data", dreamqueue=local.script("dreamqueue"), kinds="dalle,search", **local.env)
    try:
        stack.wait_ready()
        caller = {ENV_PREFIX + "URL": stack.url, ENV_PREFIX + "API_KEY": stack.key}
        picture_from(local, caller, folder / "local-pictures")
    finally:
        code = stack.stop()
    if code:
        raise Broken(f"dreamqueue up ended with {code}:\n" + "".join(stack.said))


def run(*argv: str, env: dict[str, str] | None = None) -> str:
    """Run to the end; what it printed. Raises Broken with its output when it fails."""
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=JOB_S + 600)
    if done.returncode:
        raise Broken(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Say what was done and how long it took."""
    began = time.monotonic()
    yield
    print(json.dumps({"extra": what, "seconds": round(time.monotonic() - began, 1)}), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
