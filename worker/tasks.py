"""The one task. Its name is frozen and it ignores whatever arguments come, so workers of any version understand it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery

from shared.logs import get_logger
from shared.store.doorbell import TASK_NAME

__all__ = ["register_pull"]

log = get_logger(__name__)


def register_pull(app: Celery, pull: Callable[[], bool]) -> None:
    """Make `app` answer doorbells with `pull`."""

    @app.task(name=TASK_NAME, ignore_result=True, acks_late=False)  # type: ignore[untyped-decorator]
    def answer_doorbell(*_args: Any, **_kwargs: Any) -> None:
        try:
            pull()
        except Exception:
            log.exception("doorbell not answered")  # the reaper rings again
