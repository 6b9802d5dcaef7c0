"""What a runner makes of the ways in which a run can end."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

import pytest

from shared.errors import Draining, ObjectStoreUnavailable, OutOfMemory, StoreUnavailable, Unavailable
from shared.settings import Settings
from tests.support.polling import eventually
from tests.unit.worker.test_run_context import Made, claim
from worker.executor.claim_gate import ClaimGate
from worker.executor.runner import Runner, RunnerParts
from worker.run.active import ActiveRuns
from worker.transfer.encode import Artifact, EncodedOutput

ENCODED = EncodedOutput([], [Artifact("f", b"x", "text/plain", {})], {})


class Bench:
    """A runner whose parts do nothing, but for those that a test puts in their place."""

    def __init__(self, **own: Any) -> None:
        names = RunnerParts.__dataclass_fields__
        self.parts = RunnerParts(**{name: own.get(name, MagicMock(name=name)) for name in names})
        self.is_draining = False
        self.runner = Runner(Settings(), self.parts, lambda: self.is_draining)
        self.context = Made().context


@pytest.mark.parametrize("error", [ObjectStoreUnavailable("away"), StoreUnavailable("away")])
@pytest.mark.parametrize("where", ["inputs.fetch", "uploads.put"])
def test_an_outage_is_no_fault_of_the_job(error: Unavailable, where: str) -> None:
    """It goes back, later, whatever it has failed before; and the worker looks before it claims more."""
    bench = Bench()
    spool: Any = bench.parts.spool
    if where == "uploads.put":
        spool.get.return_value = ENCODED
        bench.parts.uploads.put.side_effect = error  # type: ignore[attr-defined]
    else:
        spool.get.return_value = None
        bench.parts.inputs.fetch.side_effect = error  # type: ignore[attr-defined]
        spec = {"kind": "rank", "prompt": "a tree", "images": ["img_" + "0" * 64]}
        bench.context.claim = replace(claim(), kind="rank", spec=spec, failures=99)
    outcome = bench.runner._work(bench.context, {})
    assert (outcome.kind, outcome.error) == ("release", error)
    assert outcome.delay_s > 0
    assert bench.parts.claim_gate.pause_until_store_back.called == isinstance(error, ObjectStoreUnavailable)  # type: ignore[attr-defined]


def test_what_is_made_is_brought_home_while_the_worker_drains() -> None:
    bench = Bench()
    bench.parts.spool.get.return_value = EncodedOutput([], [], {})  # type: ignore[attr-defined]
    bench.parts.uploads.put.side_effect = lambda _encoded, context, keep_through: (
        context.check(keep_through=keep_through) or []
    )  # type: ignore[attr-defined]
    bench.context.stop(Draining("the worker stops"))
    assert bench.runner._work(bench.context, {}).kind == "commit"


@pytest.mark.parametrize(("before", "is_final"), [("", False), ("probe_failed", False), ("out_of_memory", True)])
def test_only_a_second_time_out_of_memory_is_final(before: str, is_final: bool) -> None:
    """And only after one the engine is asked to take less."""
    bench = Bench(engines={"probe": MagicMock()})
    bench.parts.spool.get.return_value = None  # type: ignore[attr-defined]
    bench.context.claim = replace(claim(), spec={"kind": "probe"}, failures=1, last_error_code=before)
    engine: Any = bench.parts.engines["probe"]
    engine.run.side_effect = OutOfMemory("full")
    outcome = bench.runner._work(bench.context, {})
    assert outcome.error is not None
    assert outcome.error.retryable is not is_final
    assert engine.run.call_args.args[0].was_too_large is is_final


def test_a_doorbell_waits_with_the_worker_that_may_not_claim() -> None:
    """A full spool: the thread keeps the one bell it heard, instead of eating those of healthy workers."""
    spool, store = MagicMock(is_full=True), MagicMock()
    store.claim.return_value = None
    bench = Bench(spool=spool, store=store, runs=ActiveRuns(), claim_gate=ClaimGate(spool, MagicMock(), lambda: False))
    thread = threading.Thread(target=bench.runner.pull, daemon=True)
    thread.start()
    claim_gate: Any = bench.parts.claim_gate
    eventually(lambda: claim_gate._changed._waiters or not thread.is_alive())
    assert thread.is_alive()
    store.claim.assert_not_called()
    spool.is_full = False
    thread.join(5)
    store.claim.assert_called_once()
