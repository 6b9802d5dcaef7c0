"""What happens around every run but is no part of it: a feature overrides what it needs of Hook, and the run loop does
not know of it. A hook that fails is logged and fails nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from shared.errors import DreamqueueError, Unavailable
from shared.logs import get_logger
from shared.metrics import JOB_SECONDS, JOBS_RUNNING, QUEUE_SECONDS, STAGE_SECONDS
from shared.records.job import FINAL
from worker.run.context import JobContext

__all__ = ["Ended", "Hook", "Hooks", "RunLog", "RunMetrics"]

log = get_logger(__name__)


@dataclass(frozen=True)
class Ended:
    """How a run ended. `outcome`: succeeded, failed, queued, cancelled, lost, or unsettled; `code` of its error."""

    outcome: str
    timings: dict[str, float]
    code: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether the job has ended with it."""
        return self.outcome in FINAL


class Hook:
    """Called on the run's own thread, in this order."""

    def before_run(self, context: JobContext, /) -> None:
        """The job was just claimed; nothing is done yet."""

    def progressed(self, context: JobContext, /) -> None:
        """The engine took a step."""

    def preview_made(self, context: JobContext, image: Image, step: int, /) -> None:
        """The engine shows the unfinished result, and none of this run is on its way."""

    def snapshot_offered(self, context: JobContext, /) -> None:
        """The engine can save the run as it is now."""

    def before_store(self, context: JobContext, /) -> None:
        """The output is made and encoded, nothing of it is stored."""

    def after_store(self, context: JobContext, /) -> None:
        """All artifacts are stored; the job's record does not name them yet."""

    def before_release(self, context: JobContext, cause: DreamqueueError, /) -> None:
        """The job is about to go back to the queue, for that cause, without a penalty."""

    def after_run(self, context: JobContext, ended: Ended, /) -> None:
        """The store was told how the run ended, or could not be, or the job is another attempt's."""


EVENTS = tuple(name for name in vars(Hook) if not name.startswith("_"))


class Hooks(Hook):
    """Several hooks as one that never raises. after_run goes through them backwards, so that who begins first ends
    last."""

    def __init__(self, hooks: list[Hook]) -> None:
        self._listeners: dict[str, list[Callable[..., None]]] = {event: [] for event in EVENTS}
        for hook in hooks:
            self.add(hook)

    def add(self, hook: Hook) -> None:
        """One more, as the last. It is called for what it overrides only: engines report with every step."""
        for event, listeners in self._listeners.items():
            if getattr(type(hook), event) is not getattr(Hook, event):
                listeners.append(getattr(hook, event))

    def before_run(self, context: JobContext) -> None:
        """To all."""
        _call(self._listeners["before_run"], context)

    def progressed(self, context: JobContext) -> None:
        """To all."""
        _call(self._listeners["progressed"], context)

    def preview_made(self, context: JobContext, image: Image, step: int) -> None:
        """To all."""
        _call(self._listeners["preview_made"], context, image, step)

    def snapshot_offered(self, context: JobContext) -> None:
        """To all."""
        _call(self._listeners["snapshot_offered"], context)

    def before_store(self, context: JobContext) -> None:
        """To all."""
        _call(self._listeners["before_store"], context)

    def after_store(self, context: JobContext) -> None:
        """To all."""
        _call(self._listeners["after_store"], context)

    def before_release(self, context: JobContext, cause: DreamqueueError) -> None:
        """To all."""
        _call(self._listeners["before_release"], context, cause)

    def after_run(self, context: JobContext, ended: Ended) -> None:
        """To all, backwards."""
        _call(reversed(self._listeners["after_run"]), context, ended)


def _call(listeners: Iterable[Callable[..., None]], *arguments: Any) -> None:
    for listener in listeners:
        try:
            listener(*arguments)
        except Exception:
            log.exception("hook failed", hook=listener.__qualname__)


class RunMetrics(Hook):
    """Counts runs and their stages."""

    def before_run(self, context: JobContext) -> None:
        """One more runs; how long it had waited."""
        claim = context.claim
        JOBS_RUNNING.labels(claim.kind).inc()
        QUEUE_SECONDS.labels(claim.kind).observe((claim.claimed_at_ms - claim.queued_at_ms) / 1000)

    def after_run(self, context: JobContext, ended: Ended) -> None:
        """One less runs; what each stage took."""
        kind = context.claim.kind
        JOBS_RUNNING.labels(kind).dec()
        JOB_SECONDS.labels(kind, ended.outcome).observe(ended.timings.get("run_s", 0.0))
        for name, seconds in ended.timings.items():
            if name not in {"run_s", "queue_s"}:
                STAGE_SECONDS.labels(kind, name.removesuffix("_s")).observe(seconds)


class RunLog(Hook):
    """A line at the claim, so that a killed worker's log names its jobs, and one at the end. The runner has bound the
    job's id, kind, attempt and tenant to each."""

    def before_run(self, context: JobContext) -> None:
        """The job is ours."""
        log.info("job claimed", **context.timings.as_dict())

    def before_release(self, _context: JobContext, cause: DreamqueueError) -> None:
        """A word on an outage; a drain or a pause is said elsewhere."""
        if isinstance(cause, Unavailable):
            log.warning("a server is away; the job goes back", error=cause.message)

    def after_run(self, _context: JobContext, ended: Ended) -> None:
        """How it ended."""
        level = log.warning if ended.outcome in {"failed", "lost", "unsettled"} else log.info
        level("run ended", outcome=ended.outcome, code=ended.code, **ended.timings)
