"""What happened, kept where no server under test can lose it: JSON lines in one file, each on disk when noted.

| what | noted by | when |
| --- | --- | --- |
| accepted, refused, unanswered, given_up | load generator | after each HTTP answer, or none |
| event | observer | an event of a job was seen in its stream |
| run, ran | worker (effects.py) | an engine starts, has ended its work |
| commit, late | worker (effects.py) | the store took a commit; refused it as a late one |
| kill, stop, cut, term, back | scenario | a fault was made, or taken back |
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Entry", "Ledger"]


@dataclass(frozen=True)
class Entry:
    """One line. `at`: seconds since the epoch by the host's real clock, whatever a process thinks the time is."""

    what: str
    at: float
    data: dict[str, Any]

    @property
    def id(self) -> str:
        """The job it is about."""
        return str(self.data["id"])


class Ledger:
    """Append-only; several processes may write one file, since a line is one write. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock = threading.Lock()

    def note(self, what: str, *, sync: bool = False, **data: Any) -> float:
        """Write a line; with `sync` it is on disk when this returns. Returns its time."""
        at = time.clock_gettime(time.CLOCK_REALTIME)
        line = json.dumps({"what": what, "at": round(at, 4), **data}) + "\n"
        with self._lock:
            os.write(self._file, line.encode())
            if sync:
                os.fsync(self._file)
        return at

    def read(self, *whats: str) -> list[Entry]:
        """All lines so far of these kinds (all kinds without any), in the order of their times."""
        entries = []
        for line in self.path.read_text().splitlines():
            data = json.loads(line)
            what, at = data.pop("what"), data.pop("at")
            if not whats or what in whats:
                entries.append(Entry(what, at, data))
        return sorted(entries, key=lambda entry: entry.at)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
