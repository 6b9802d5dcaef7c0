"""Watches every accepted job's event stream from outside, so that an event that vanishes later is still known."""

from __future__ import annotations

import json
import threading
from typing import Any, cast

import redis

from shared.settings import Settings
from shared.store import keys
from shared.store.redis import connect
from tests.faults.cluster import TENANT
from tests.faults.ledger import Ledger
from tests.faults.load import Load

__all__ = ["Observer"]

PERIOD_S = 0.1
AT_ONCE = 200  # streams per question
FIELDS = ("attempt", "worker", "state", "reason")


class Observer:
    """A thread; `finish` reads all streams once more from their beginning and ends it."""

    def __init__(self, settings: Settings, ledger: Ledger, load: Load) -> None:
        self._client = connect(settings, timeout_s=5)
        self._ledger, self._load = ledger, load
        self._after: dict[str, str] = {}
        self._ended: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="observer", daemon=True)

    def start(self) -> Observer:
        """Begin."""
        self._thread.start()
        return self

    def finish(self) -> None:
        """Stop watching, then look at everything again."""
        self._stopping.set()
        self._thread.join(30)
        self._ended.clear()
        self._after = dict.fromkeys(self._after, "0-0")
        self._look()
        self._client.close()

    def _watch(self) -> None:
        while not self._stopping.wait(PERIOD_S):
            try:
                self._look()
            except redis.RedisError:
                continue  # its absence may be the fault under test

    def _look(self) -> None:
        for job_id in list(self._load.accepted):
            self._after.setdefault(job_id, "0-0")
        open_ = [job_id for job_id in self._after if job_id not in self._ended]
        for start in range(0, len(open_), AT_ONCE):
            streams = {keys.events(TENANT, job_id): self._after[job_id] for job_id in open_[start : start + AT_ONCE]}
            reply = cast("Any", self._client.xread(streams, count=1000))  # type: ignore[arg-type]
            items = reply.items() if isinstance(reply, dict) else reply
            for name, entries in items:
                self._note(name.rpartition(":")[2], entries[0] if isinstance(reply, dict) else entries)

    def _note(self, job_id: str, entries: list[tuple[str, dict[str, str]]]) -> None:
        for event_id, fields in entries:
            self._after[job_id] = event_id
            if fields["type"] not in ("queued", "started", "finished"):
                continue
            data = json.loads(fields["data"])
            told = {name: data[name] for name in FIELDS if name in data}
            self._ledger.note("event", id=job_id, event=event_id, type=fields["type"], **told)
            if fields["type"] == "finished":
                self._ended.add(job_id)
