"""A real worker process, for one test."""

from __future__ import annotations

import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from deploy.local.processes import Command, Process, wait_until
from shared.records.job import JobRecord, NewJob
from shared.settings import ENV_PREFIX, Settings
from shared.store.jobs import JobStore
from shared.store.workers import WorkerInfo
from tests.support.polling import PATIENCE_S, eventually

__all__ = ["Worker", "submit", "until"]


class Worker:
    """`python -m worker` on a pool. Ready when the constructor returns."""

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        folder: Path,
        *,
        arguments: tuple[str, ...] = ("-m", "worker"),
    ) -> None:
        self.name = f"w-{uuid.uuid4().hex[:8]}"
        self._store = store
        values = settings.model_copy(update={"worker_name": self.name}).model_dump()
        env = {ENV_PREFIX + name.upper(): str(value) for name, value in values.items()}
        env["OMP_NUM_THREADS"] = "1"
        command = Command(self.name, [sys.executable, *arguments], env)
        self.process = Process(command, folder / f"{self.name}.log")
        wait_until(lambda: self.info() is not None, self.process, PATIENCE_S)

    def info(self) -> WorkerInfo | None:
        """As the store lists it."""
        return next((info for info in self._store.fleet.workers() if info.name == self.name), None)

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return self.process.log_path.read_text(errors="replace")

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()

    def stop(self, *, number: int = signal.SIGTERM) -> int:
        """Ask it to stop, and wait; its exit code. Killed, with a code below zero, when it does not."""
        self.process.signal(number)
        end = time.monotonic() + PATIENCE_S
        while self.process.exit_code is None and time.monotonic() < end:
            time.sleep(0.02)
        return self.process.stop(0.0)


def submit(store: JobStore, tenant: str, pool: str, *, deadline_s: float | None = None, **spec: Any) -> str:
    """Accept a job, a probe of normal priority unless `kind` and `priority` say otherwise; its id."""
    kind, priority = spec.pop("kind", "probe"), spec.pop("priority", "normal")
    job = NewJob(
        id=str(uuid.uuid4()), tenant=tenant, kind=kind, pool=pool, spec={"kind": kind, **spec}, priority=priority,
        deadline_s=deadline_s,
    )  # fmt: skip
    return store.submit(job).id


def until(store: JobStore, tenant: str, job_id: str, *states: str) -> JobRecord:
    """The record, once its state is one of `states`; a final state without any given."""

    def reached() -> JobRecord | None:
        record = store.get(tenant, job_id)
        return record if (record.state in states if states else record.is_final) else None

    return eventually(reached, what=f"job {job_id} in {states or 'a final state'}")
