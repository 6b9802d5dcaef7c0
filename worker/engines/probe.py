"""The operator's canary: shows that queue, worker and object store work, without a model or a device."""

from __future__ import annotations

import time

from shared.errors import ProbeFailed
from shared.specs import ProbeSpec
from worker.engines.base import Model, Monitor, Output, Task

__all__ = ["ProbeEngine"]

SLICE_S = 0.02  # how soon a sleeping step notices that it must stop


class ProbeEngine:
    """Takes its steps, then fails or writes as the spec says."""

    kinds: tuple[str, ...] = ("probe",)

    def load(self) -> list[Model]:
        """Nothing to load."""
        return []

    def run(self, task: Task, monitor: Monitor) -> Output:
        """See Engine."""
        spec = task.spec
        assert isinstance(spec, ProbeSpec)
        for step in range(spec.steps):
            _sleep(spec.step_s, monitor)
            monitor.progress("probe", step + 1, spec.steps)
        if spec.fail == "always" or (spec.fail == "once" and task.failures == 0):
            raise ProbeFailed("told to fail, and to be tried again", retryable=True)
        if spec.fail == "permanently":
            raise ProbeFailed("told to fail for good", retryable=False)
        files = {"probe.bin": (_body(spec.write_bytes), "application/octet-stream")} if spec.write_bytes else {}
        return Output(files=files, parameters=spec.model_dump(exclude={"kind"}))


def _sleep(seconds: float, monitor: Monitor) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        monitor.check()
        time.sleep(min(left, SLICE_S))


def _body(size: int) -> bytes:
    """The same bytes for the same size, so that two runs can be compared."""
    pattern = bytes(range(256))
    return (pattern * (size // 256 + 1))[:size]
