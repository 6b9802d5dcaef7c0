"""gunicorn's settings; a file gunicorn reads, not a module of the application.

gevent workers: a process holds thousands of long polls and event streams at once. Its metrics are summed over the
processes through a folder of memory-mapped files (prometheus_client's multiprocess mode).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from shared.settings import Settings

_settings = Settings.from_env()
_metrics_dir = tempfile.mkdtemp(prefix="dreamqueue-metrics-")

bind = _settings.bind
workers = _settings.api_processes
worker_class = "gevent"
worker_connections = 2_000  # per process; beyond it new connections wait in the listen backlog
backlog = 2_048
timeout = 60  # a process whose event loop stands still this long is replaced
graceful_timeout = 15  # SIGTERM: waits and streams still open after this are cut; callers come back elsewhere
keepalive = 75  # longer than a load balancer's, so that it is never us who closes under a request
control_socket_disable = True
accesslog = None  # ours is JSON and knows the request id: api/http/access_log.py, by setting
errorlog = "-"
loglevel = _settings.log_level
raw_env = [f"PROMETHEUS_MULTIPROC_DIR={_metrics_dir}"]  # set before any process imports prometheus_client
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # a full disk must not stop heartbeats


def child_exit(_server: Any, worker: Any) -> None:
    """A process ended: its gauges must not be summed any more."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid, _metrics_dir)  # type: ignore[no-untyped-call]


def on_exit(_server: Any) -> None:
    """gunicorn stops: the metric files go."""
    shutil.rmtree(_metrics_dir, ignore_errors=True)
