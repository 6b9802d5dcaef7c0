"""The operator's canary: shows that queue, worker and object store work, without a model or a device."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from shared.errors import ProbeFailed
from shared.specs.probe import ProbeSpec
from worker.engines.base import Model, Output, RunContext, Task
from worker.engines.identity import identity, is_of
from worker.engines.options import EngineParts

__all__ = ["ProbeEngine", "build"]

SLICE_S = 0.02  # how soon a sleeping step notices that it must stop


class ProbeEngine:
    """Takes its steps, then fails or writes as the spec says. Its steps are counted like those on a device."""

    resumes = True

    def __init__(self, on_step: Callable[[str, float], None] = lambda _kind, _seconds: None) -> None:
        self._on_step = on_step

    def load(self) -> list[Model]:
        """Nothing to load."""
        return []

    def run(self, task: Task[ProbeSpec], context: RunContext) -> Output:
        """See Engine."""
        spec = task.spec
        done = _steps_done(spec, task.snapshot)
        if done:
            context.resumed(done)
        for step in range(done + 1, spec.steps + 1):
            _sleep(spec.step_s, context)
            self._on_step("probe", spec.step_s)
            context.snapshot(step, lambda step=step: _saved(spec, step))  # type: ignore[misc]
            context.progress("probe", step, spec.steps)
        if spec.fail == "always" or (spec.fail == "once" and task.failures == 0):
            raise ProbeFailed("told to fail, and to be tried again", retryable=True)
        if spec.fail == "permanently":
            raise ProbeFailed("told to fail for good", retryable=False)
        files = {"probe.bin": (_body(spec.write_bytes), "application/octet-stream")} if spec.write_bytes else {}
        return Output(files=files, parameters=spec.model_dump(exclude={"kind"}))


def _sleep(seconds: float, context: RunContext) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        context.check()
        time.sleep(min(left, SLICE_S))


def _saved(spec: ProbeSpec, step: int) -> bytes:
    return json.dumps({**identity(spec), "step": step}).encode()


def _steps_done(spec: ProbeSpec, snapshot: bytes | None) -> int:
    """What an earlier attempt took; 0 where its snapshot is none of this run's."""
    if snapshot is None:
        return 0
    try:
        saved = json.loads(snapshot)
    except ValueError:
        saved = None
    if not isinstance(saved, dict) or not is_of(saved, identity(spec)):
        return 0
    step = saved.get("step")
    return min(step, spec.steps) if isinstance(step, int) else 0


def _body(size: int) -> bytes:
    """The same bytes for the same size, so that two runs can be compared."""
    pattern = bytes(range(256))
    return (pattern * (size // 256 + 1))[:size]


def build(parts: EngineParts) -> ProbeEngine:
    """The engine, as the table of kinds names it."""
    return ProbeEngine(parts.options.on_step)
