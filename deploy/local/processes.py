"""Child processes that are started, watched and stopped together; nothing else is ever signalled."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

__all__ = ["Command", "Process", "ProcessFailed", "wait_until"]


class ProcessFailed(Exception):
    """A child ended, or did not become ready, when it should have run. The message ends with its last lines."""


@dataclass(frozen=True)
class Command:
    """What to run. `env` is added to this process's own environment."""

    name: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)


class Process:
    """One running child in its own process group, its output in a log file, its id in a pid file."""

    def __init__(self, command: Command, log_path: Path, pid_path: Path | None = None) -> None:
        self.command = command
        self.log_path = log_path
        self._pid_path = pid_path
        self._terminated = False
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log: IO[bytes] = log_path.open("ab")
        self._child = subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **command.env},
            start_new_session=True,  # Ctrl-C reaches the supervisor only, which stops children in order
            preexec_fn=_die_with_parent,
        )
        if pid_path:
            pid_path.parent.mkdir(parents=True, exist_ok=True)
            pid_path.write_text(f"{self.pid}\n")

    @property
    def pid(self) -> int:
        """The child's process id, also its group's."""
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._child.poll()

    def signal(self, number: int) -> None:
        """Send a signal to the child itself."""
        with contextlib.suppress(ProcessLookupError):
            self._child.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM, once: a second one would cut a drain short."""
        if not self._terminated:
            self._terminated = True
            self.signal(signal.SIGTERM)

    def stop(self, grace_s: float = 10.0) -> int:
        """SIGTERM, and SIGKILL to the whole group after `grace_s`. Returns the exit code."""
        self.terminate()
        try:
            self._child.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()
        return self._ended()

    def kill(self) -> int:
        """SIGKILL to the whole group at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._child.wait()
        return self._ended()

    def _ended(self) -> int:
        self._log.close()
        if self._pid_path:
            self._pid_path.unlink(missing_ok=True)
        return int(self._child.returncode)

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


def _die_with_parent() -> None:
    """Linux: the kernel sends SIGTERM when the supervisor is killed, so nothing is left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def wait_until(ready: Callable[[], bool], process: Process, timeout_s: float) -> None:
    """Poll `ready` until it is true. Raises ProcessFailed when the child ends first or time runs out."""
    end = time.monotonic() + timeout_s
    while not ready():
        if process.exit_code is not None:
            raise ProcessFailed(f"{process.command.name} ended with {process.exit_code}:\n{process.tail()}")
        if time.monotonic() > end:
            raise ProcessFailed(f"{process.command.name} was not ready within {timeout_s:g} s:\n{process.tail()}")
        time.sleep(0.02)
