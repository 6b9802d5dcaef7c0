"""The peer under the same storm: plain Celery with late acks, as its documentation advises for jobs not to be lost.

Run by Celery itself: `celery -A tests.faults.late_celery worker`. The sweep that restores messages is set far quicker
than its default (100 s), to the peer's advantage. A task notes its start and its end in the ledger.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery
from celery.signals import worker_ready

from tests.faults.ledger import Ledger

__all__ = ["VISIBILITY_S", "app", "nap"]

VISIBILITY_S = 10

app = Celery("late", broker=os.environ.get("LATE_CELERY_URL", "redis://127.0.0.1:6379/1"))
app.conf.update(
    task_default_queue="late",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": VISIBILITY_S,
        "unacked_restore_interval": 2,
        "unacked_restore_throttle": 1,
    },
)


@worker_ready.connect  # type: ignore[untyped-decorator]
def _ready(**_: object) -> None:
    """Tell the scenario that this worker consumes."""
    Path(os.environ["FAULTS_LEDGER"]).with_name(f"ready-{os.environ['FAULTS_WORKER']}").touch()


@app.task(name="nap")
def nap(job_id: str, seconds: float) -> None:
    """Sleep as long as the probe would, then count as committed."""
    ledger = Ledger(Path(os.environ["FAULTS_LEDGER"]))
    ledger.note("run", id=job_id, worker=os.environ["FAULTS_WORKER"])
    time.sleep(seconds)
    ledger.note("commit", id=job_id, worker=os.environ["FAULTS_WORKER"])
    ledger.close()
