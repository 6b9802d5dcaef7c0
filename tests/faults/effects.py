"""`python -m tests.faults.effects`: the worker as it is, with a witness at its engines and at its commits.

The witness writes to the ledger (the file FAULTS_LEDGER), not to the worker's log, and plays what only a process
itself can: a segfault in the engine, a freeze in the gap before the commit, death at a fail-point (FAULTS_FAILPOINT).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.ledger import Ledger

__all__ = ["FREEZES_BEFORE_COMMIT", "SEGFAULTS", "main"]

# A probe that writes exactly so many bytes is one of these; the load generator writes fewer.
SEGFAULTS = 666_001  # kills its process, on every attempt
FREEZES_BEFORE_COMMIT = 666_002  # SIGSTOPs its process between upload and commit, on its first attempt


def main() -> int:
    """Run the worker under observation."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from tests.support.doomed import arm
    from worker import app, node

    arm(os.environ.get("FAULTS_FAILPOINT", ""))
    ledger = Ledger(Path(os.environ["FAULTS_LEDGER"]))
    node.build_engines = _witnessed_engines(node.build_engines, ledger)  # type: ignore[attr-defined]
    node.JobStore = _witnessed_store(node.JobStore, ledger)  # type: ignore[attr-defined, misc]
    return app.main()


def _witnessed_engines(build: Callable[..., Any], ledger: Ledger) -> Callable[..., Any]:
    def build_witnessed(*arguments: Any, **options: Any) -> Any:
        engines = build(*arguments, **options)
        for engine in set(engines.values()):
            engine.run = _witnessed(engine.run, ledger)
        return engines

    return build_witnessed


def _witnessed(run: Callable[..., Any], ledger: Ledger) -> Callable[..., Any]:
    def run_witnessed(task: Any, context: Any) -> Any:
        claim = context.claim
        started_at = ledger.note("run", id=claim.id, attempt=claim.attempt)
        if claim.spec.get("write_bytes") == SEGFAULTS:
            ctypes.string_at(0)
        output = run(task, context)
        took_s = time.clock_gettime(time.CLOCK_REALTIME) - started_at
        ledger.note("ran", id=claim.id, attempt=claim.attempt, took_s=round(took_s, 4))
        return output

    return run_witnessed


def _witnessed_store(store: type, ledger: Ledger) -> type:
    from shared.errors import LeaseLost

    class WitnessedStore(store):  # type: ignore[misc, valid-type]
        """Notes what became of each commit."""

        def commit(self, claim: Any, *arguments: Any, **options: Any) -> Any:
            if claim.spec.get("write_bytes") == FREEZES_BEFORE_COMMIT and claim.attempt == 1:
                ledger.note("frozen", id=claim.id, attempt=claim.attempt)
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # this thread stops before its next line
            try:
                state = super().commit(claim, *arguments, **options)
            except LeaseLost:
                ledger.note("late", id=claim.id, attempt=claim.attempt)
                raise
            ledger.note("commit", id=claim.id, attempt=claim.attempt, state=state.value)
            return state

    return WitnessedStore


if __name__ == "__main__":
    raise SystemExit(main())
