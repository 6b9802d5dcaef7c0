"""Callers: threads that give jobs at a pace, and ask again under the same id until they know what became of it."""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx

from tests.faults.ledger import Ledger

__all__ = ["Load", "longer_probe", "short_probe"]

GIVE_UP_S = 120.0
AGAIN_S = 0.1


def short_probe(rng: random.Random) -> dict[str, Any]:
    """0.05 to 0.3 s of pretended work and an artifact of up to 20 KB."""
    return {
        "kind": "probe",
        "input": {"steps": rng.randint(1, 6), "step_s": 0.05, "write_bytes": rng.randint(100, 20_000)},
    }


def longer_probe(rng: random.Random) -> dict[str, Any]:
    """0.5 to 1.2 s, for faults that need running jobs to hit."""
    return {
        "kind": "probe",
        "input": {"steps": rng.randint(10, 24), "step_s": 0.05, "write_bytes": rng.randint(100, 20_000)},
    }


class Load:
    """Every other job by PUT under an id of its own, the rest by POST with an Idempotency-Key."""

    def __init__(
        self,
        url: str,
        key: str,
        ledger: Ledger,
        seed: int,
        *,
        per_s: float,
        callers: int = 4,
        spec: Callable[[random.Random], dict[str, Any]] = short_probe,
        timeout_s: float = 10.0,
    ) -> None:
        self._url, self._key, self._ledger, self._seed = url, key, ledger, seed
        self._per_s, self._spec, self._timeout_s = per_s, spec, timeout_s
        self._numbers, self._extra = itertools.count(), itertools.count()
        self._stopping = threading.Event()
        self._limit = 10**9
        self._lock = threading.Lock()
        self.accepted: list[str] = []
        self.slowest_answer_s = 0.0
        self._threads = [threading.Thread(target=self._call, name=f"caller-{n}", daemon=True) for n in range(callers)]

    def start(self, limit: int = 10**9) -> Load:
        """Begin; with a limit, end by itself after so many jobs."""
        self._limit = limit
        self._started_at = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """No more jobs; returns when the fate of all given ones is known."""
        self._stopping.set()
        self.join()

    def join(self) -> None:
        """Until the limit is reached."""
        for thread in self._threads:
            thread.join(GIVE_UP_S * 2)
            assert not thread.is_alive(), "a caller hangs"

    def give_one(self, body: dict[str, Any]) -> str:
        """A job of the scenario's own, besides the paced ones; its id."""
        with httpx.Client(headers={"Authorization": f"Bearer {self._key}"}, timeout=self._timeout_s) as http:
            return self._give(http, -2 - 2 * next(self._extra), body)

    @property
    def is_done(self) -> bool:
        """Whether every caller has ended."""
        return not any(thread.is_alive() for thread in self._threads)

    def _call(self) -> None:
        with httpx.Client(headers={"Authorization": f"Bearer {self._key}"}, timeout=self._timeout_s) as http:
            while (number := next(self._numbers)) < self._limit:
                due_at = self._started_at + number / self._per_s
                if self._stopping.wait(max(0.0, due_at - time.monotonic())):
                    return
                self._give(http, number)

    def _give(self, http: httpx.Client, number: int, own: dict[str, Any] | None = None) -> str:
        rng = random.Random(f"{self._seed}:{number}")
        job_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        body = own or self._spec(rng)
        give_up_at = time.monotonic() + GIVE_UP_S
        while time.monotonic() < give_up_at:
            if self._ask(http, number, job_id, body):
                break
            time.sleep(AGAIN_S)
        else:
            self._ledger.note("given_up", sync=True, id=job_id, number=number)
        return job_id

    def _ask(self, http: httpx.Client, number: int, job_id: str, body: dict[str, Any]) -> bool:
        asked_at = time.monotonic()
        try:
            if number % 2:
                answer = http.post(f"{self._url}/v1/jobs", json=body, headers={"Idempotency-Key": f"k-{job_id}"})
            else:
                answer = http.put(f"{self._url}/v1/jobs/{job_id}", json=body)
        except httpx.TransportError as error:
            self._ledger.note("unanswered", number=number, error=type(error).__name__)
            return False
        finally:
            took_s = time.monotonic() - asked_at
            with self._lock:
                self.slowest_answer_s = max(self.slowest_answer_s, took_s)
        if answer.status_code in (200, 202):
            found = str(answer.json()["id"])
            wanted = _expected(body)
            self._ledger.note("accepted", sync=True, id=found, number=number, **wanted)
            with self._lock:
                self.accepted.append(found)
            return True
        self._ledger.note(
            "refused", number=number, status=answer.status_code, retry_after=answer.headers.get("Retry-After")
        )
        return False


def _expected(body: dict[str, Any]) -> dict[str, Any]:
    """What the artifact must be, known before any worker saw the job."""
    size = body["input"].get("write_bytes", 0) if body["kind"] == "probe" else 0
    if not size:
        return {}
    pattern = bytes(range(256))
    return {"bytes": size, "sha256": hashlib.sha256((pattern * (size // 256 + 1))[:size]).hexdigest()}
