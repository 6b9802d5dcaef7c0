"""The peer: plain Celery 5.7 with the settings people use, no-op tasks, the same Redis, one threads worker.

Run by Celery itself: `celery -A tests.benchmarks.plain_celery worker`. The task tells it is done by pushing to a list,
since without a result backend nothing else would.
"""

from __future__ import annotations

import os

import redis
from celery import Celery

URL = os.environ.get("PLAIN_CELERY_URL", "redis://127.0.0.1:6379/1")
DONE = "plain:done"

app = Celery("plain", broker=URL)
app.conf.update(
    task_default_queue="plain",
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)
client = redis.Redis.from_url(URL)


@app.task
def noop(token: str) -> None:
    """Nothing, and say so."""
    client.lpush(DONE, token)
