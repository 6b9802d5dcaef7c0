"""One fault each: `run(run)` breaks something while jobs come in, and returns the row of the ledger's verdict."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["ISOLATED", "NAMES", "Unavailable", "play"]

NAMES = (
    "worker_kill", "redis_kill", "api_kill", "worker_stop", "store_errors", "plain_celery",
    "failpoints", "reaper_kill", "redis_stop", "redis_full", "aof_truncated", "spool_full",
    "network_cut", "network_loss", "network_one_way", "clock_skew", "poison", "drain", "version_skew", "pictures",
    "state_machine", "soak",
)  # fmt: skip
LEDGERS = Path("out/ledgers")
ISOLATED = ("network_", "spool_")  # run in namespaces of their own: links, mounts
PROGRAM = """
import json, sys
from tests.faults.scenarios import perform
print(json.dumps(perform(sys.argv[1], int(sys.argv[2]), short=sys.argv[3] == "short")))
"""


class Unavailable(Exception):
    """This machine cannot make that fault; the message says what is missing."""


def play(name: str, seed: int, *, short: bool, minutes: int = 30) -> dict[str, Any]:
    """Run one scenario; its row as it is kept. `minutes`: the soak's."""
    if not name.startswith(ISOLATED):
        return perform(name, seed, short=short, minutes=minutes)
    inside = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
    if not shutil.which("unshare") or not shutil.which("ip") or not Path("/dev/net/tun").exists():
        raise Unavailable("no unshare, no ip, or no /dev/net/tun")
    if subprocess.run([*inside, "ip", "tuntap", "add", "dev", "try0", "mode", "tun"], check=False).returncode:
        raise Unavailable("user namespaces may not make TUN devices here")
    told = [name, str(seed), "short" if short else "long"]
    child = subprocess.run(
        [*inside, "sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, "-c", PROGRAM, *told],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 0, f"{name} ended with {child.returncode}; its words are above"
    row: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return row


def perform(name: str, seed: int, *, short: bool, minutes: int = 30) -> dict[str, Any]:
    """Run one scenario in this process, in a folder of its own that is deleted at the end."""
    from tests.faults.storm import Run

    started_at = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"dq-{name}-", ignore_cleanup_errors=True) as folder:
        try:
            told = Run(seed, short, Path(folder), minutes)
            row = importlib.import_module(f"tests.faults.scenarios.{name}").run(told)
        finally:
            _keep_ledgers(Path(folder), f"{name}-{'short' if short else 'long'}-{seed}")
        return dict(row.line(time.monotonic() - started_at, short))


def _keep_ledgers(folder: Path, name: str) -> None:
    """The ledger stays, so that a verdict can be looked into."""
    LEDGERS.mkdir(parents=True, exist_ok=True)
    for path in folder.rglob("ledger.jsonl"):
        shutil.copy(path, LEDGERS / f"{name}.jsonl")
