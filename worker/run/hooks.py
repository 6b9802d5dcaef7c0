"""What happens around every run but is no part of it. A hook that fails is logged and fails nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shared.logs import get_logger
from shared.metrics import JOB_SECONDS, JOBS_RUNNING, QUEUE_SECONDS, STAGE_SECONDS
from shared.records.job import Claim

__all__ = ["Ended", "Hook", "Hooks", "RunLog", "RunMetrics"]

log = get_logger(__name__)


@dataclass(frozen=True)
class Ended:
    """How a run ended. `outcome`: succeeded, failed, queued, cancelled, lost, or unsettled; `code` of its error."""

    outcome: str
    timings: dict[str, float]
    code: str | None = None


class Hook(Protocol):
    """Called on the run's own thread."""

    def before(self, claim: Claim) -> None:
        """The job was just claimed."""

    def after(self, claim: Claim, ended: Ended) -> None:
        """The job was settled, or taken from us."""


class Hooks:
    """Several hooks as one that never raises."""

    def __init__(self, hooks: list[Hook]) -> None:
        self._hooks = hooks

    def before(self, claim: Claim) -> None:
        """See Hook."""
        for hook in self._hooks:
            try:
                hook.before(claim)
            except Exception:
                log.exception("hook failed", hook=type(hook).__name__)

    def after(self, claim: Claim, ended: Ended) -> None:
        """See Hook."""
        for hook in self._hooks:
            try:
                hook.after(claim, ended)
            except Exception:
                log.exception("hook failed", hook=type(hook).__name__)


class RunMetrics:
    """Counts runs and their stages."""

    def before(self, claim: Claim) -> None:
        """See Hook."""
        JOBS_RUNNING.labels(claim.kind).inc()
        QUEUE_SECONDS.labels(claim.kind).observe((claim.claimed_at_ms - claim.queued_at_ms) / 1000)

    def after(self, claim: Claim, ended: Ended) -> None:
        """See Hook."""
        JOBS_RUNNING.labels(claim.kind).dec()
        JOB_SECONDS.labels(claim.kind, ended.outcome).observe(ended.timings.get("run_s", 0.0))
        for name, seconds in ended.timings.items():
            if name not in {"run_s", "queue_s"}:
                STAGE_SECONDS.labels(claim.kind, name.removesuffix("_s")).observe(seconds)


class RunLog:
    """One line per run, at its end."""

    def before(self, _claim: Claim) -> None:
        """See Hook."""

    def after(self, _claim: Claim, ended: Ended) -> None:
        """See Hook."""
        level = log.warning if ended.outcome in {"failed", "lost", "unsettled"} else log.info
        level("run ended", outcome=ended.outcome, code=ended.code, **ended.timings)
