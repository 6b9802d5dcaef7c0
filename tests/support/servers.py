"""Real servers for the tests: started once a session, killed and started again where a test is about that."""

from __future__ import annotations

import secrets
from pathlib import Path

from deploy.local.processes import Process, wait_until
from deploy.local.servers import Credentials, bucket_is_there, free_port, object_server, redis_answers, redis_server
from shared.settings import Settings
from shared.storage import ObjectStore
from tests.support.polling import PATIENCE_S

__all__ = ["ObjectServer", "RedisServer"]


class RedisServer:
    """A Redis of our own, as the embedded stack runs it; `kill` and `start` keep its folder and port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process = self.start()

    @property
    def url(self) -> str:
        """For Settings.redis_url."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Process:
        """Start on the same append-only file, and wait until it answers."""
        self.process = Process(redis_server(self.folder, self.port), self.folder / "redis.log")
        wait_until(lambda: redis_answers(self.port), self.process, PATIENCE_S)
        return self.process

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()


class ObjectServer:
    """A nanio of our own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.credentials = Credentials("test", secrets.token_hex(12))
        self.process = self.start()

    @property
    def url(self) -> str:
        """For Settings.s3_endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def settings(self) -> dict[str, str]:
        """The fields of Settings that point here."""
        return {
            "s3_endpoint": self.url,
            "s3_access_key": self.credentials.access_key,
            "s3_secret_key": self.credentials.secret_key,
        }

    def start(self) -> Process:
        """Start on the same folder, and wait until it answers."""
        self.process = Process(
            object_server(self.folder / "data", self.port, self.credentials), self.folder / "objects.log"
        )
        objects = ObjectStore(Settings(**self.settings()))  # type: ignore[arg-type]

        wait_until(lambda: bucket_is_there(objects), self.process, PATIENCE_S)
        return self.process

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
