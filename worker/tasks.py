"""The one task, and the threads it runs on. Its name is frozen and it ignores whatever arguments come, so workers of
any version understand it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.concurrency.thread import TaskPool

from shared.logs import get_logger
from shared.store.doorbell import TASK_NAME

__all__ = ["WakingPool", "register_pull"]

log = get_logger(__name__)


def register_pull(app: Celery, pull: Callable[[], bool]) -> None:
    """Make `app` answer doorbells with `pull`."""

    @app.task(name=TASK_NAME, ignore_result=True, acks_late=False)  # type: ignore[untyped-decorator]
    def answer_doorbell(*_args: Any, **_kwargs: Any) -> None:
        try:
            pull()
        except Exception:
            log.exception("doorbell not answered")  # the reaper rings again


class WakingPool(TaskPool):  # type: ignore[misc]
    """Celery's threads; the end of a task turns Celery's loop. It fetches the next doorbell when it turns and a slot is
    free: without this a worker whose slots were all busy sleeps up to a second beside waiting jobs."""

    _loop: Any = None

    def register_with_event_loop(self, loop: Any) -> None:
        """Celery tells its loop, once per connection to the broker."""
        self._loop = loop

    def on_apply(self, *arguments: Any, **options: Any) -> Any:
        """Start a task."""
        result = super().on_apply(*arguments, **options)
        result.f.add_done_callback(self._wake)
        return result

    def _wake(self, _future: Any) -> None:
        if self._loop is not None:
            self._loop.call_soon(_nothing)


def _nothing() -> None:
    """Waking is all."""
