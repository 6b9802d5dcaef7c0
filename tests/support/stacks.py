"""The embedded stack as a user runs it: `dreamqueue up` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from deploy.local.servers import free_port
from tests.support.polling import PATIENCE_S

__all__ = ["RunningStack", "is_alive"]


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class RunningStack:
    """`dreamqueue up` on a folder and a free port; probe jobs only unless `kinds` says more, this environment's command
    unless another is named."""

    def __init__(self, data: Path, *, port: int = 0, kinds: str = "probe", dreamqueue: str = "", **env: str) -> None:
        self.data = data
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        dreamqueue = dreamqueue or str(Path(sys.executable).parent / "dreamqueue")
        self.child = subprocess.Popen(
            [dreamqueue, "up", "--data", str(data), "--port", str(self.port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "DREAMQUEUE_KINDS": kinds, **env},
        )
        self.said: list[str] = []

    def wait_ready(self) -> RunningStack:
        """Read its output up to the ready line; fails with what it said when it ends first."""
        assert self.child.stdout
        for line in self.child.stdout:
            self.said.append(line)
            if re.match(rf"ready {re.escape(self.url)}$", line.rstrip()):
                return self
        raise AssertionError("the stack did not become ready:\n" + "".join(self.said))

    @property
    def key(self) -> str:
        """The development key."""
        return (self.data / "api-key").read_text().strip()

    def client(self) -> httpx.Client:
        """An HTTP client with the key."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=PATIENCE_S)

    def pids(self) -> dict[str, int]:
        """Name -> process id of every child."""
        return {path.stem: int(path.read_text()) for path in (self.data / "run").glob("*.pid")}

    def kill(self, name: str) -> None:
        """kill -9 one child."""
        os.kill(self.pids()[name], signal.SIGKILL)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the supervisor and wait for its end; of one that ended only the rest of its output is read."""
        assert self.child.stdout
        self.child.send_signal(number)
        if not self.child.stdout.closed:
            output, _ = self.child.communicate(timeout=PATIENCE_S)
            self.said.append(output)
        return self.child.returncode

    def finished(self, client: httpx.Client, job_id: str) -> dict[str, Any]:
        """Poll a job until it is final; connection errors are part of the faults under test."""
        end = time.monotonic() + PATIENCE_S
        job: dict[str, Any] = {}
        while time.monotonic() < end:
            try:
                job = client.get(f"/v1/jobs/{job_id}", params={"wait": 1}).json()
            except httpx.HTTPError:
                time.sleep(0.05)
                continue
            if job.get("finished_at"):
                return job
        raise AssertionError(f"not final within {PATIENCE_S:g} s: {job}")
