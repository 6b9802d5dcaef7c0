"""What a runner makes of the ways in which a run can end: claim to the store's last word, with a store in memory."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from structlog.contextvars import get_contextvars

from shared.errors import (
    Cancelled,
    DeadlineExceeded,
    Draining,
    DreamqueueError,
    LeaseLost,
    NonFinite,
    ObjectStoreUnavailable,
    OutOfMemory,
    Stopped,
    StoreUnavailable,
)
from shared.records.job import Claim, JobState
from shared.storage import StoredObject
from tests.support.polling import PATIENCE_S
from tests.unit.worker.test_run_context import claim
from worker.engines.base import Output, StoppedWithOutput, Task
from worker.executor.claim_gate import ClaimGate
from worker.executor.claims import Claims, ClaimTerms
from worker.executor.output_maker import OutputMaker
from worker.executor.runner import Runner, RunnerParts
from worker.run.active import ActiveRuns
from worker.run.context import JobContext
from worker.run.failpoints import FailPoints
from worker.run.hooks import Ended, Hook, Hooks
from worker.run.retry import Backoff
from worker.transfer.inputs import Inputs
from worker.transfer.snapshots import Snapshots
from worker.transfer.spool import Spool
from worker.transfer.uploads import Uploads

MADE = Output(files={"f": (b"made", "text/plain")})
ONE_PICTURE = {"kind": "rank", "prompt": "a tree", "images": ["img_" + "0" * 64]}
OF_A_JOB = {"kind": "rank", "prompt": "a tree", "images": ["00000000-0000-0000-0000-000000000000/000.png"]}


class Servers:
    """A job store that hands out one job and notes what it is told, and an object store; each may be away."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self.told: list[tuple[str, Any]] = []
        self.kept: dict[str, bytes] = {}
        self.away: set[str] = set()
        self.breaks: set[str] = set()

    def _answer(self, what: str, error: DreamqueueError) -> None:
        if what in self.away:
            raise error
        if what in self.breaks:
            raise RuntimeError(what)

    def claim(self, _pool: str, _worker: str, *, is_idle: bool) -> Claim | None:
        self._answer("claim", StoreUnavailable("away"))
        return self.claims.pop() if self.claims else None

    def commit(self, _claim: Claim, result: Any, _timings: Any, *, state: JobState, follow_up: Any) -> JobState:
        self._answer("commit", LeaseLost("x"))
        self.told.append((f"commit {state.value}", result["files"]))
        assert follow_up is None
        return state

    def fail(self, _claim: Claim, error: dict[str, Any], *, delay_s: float, result: Any, timings: Any) -> JobState:
        assert "run_s" in timings
        self.told.append((f"fail {error['code']}", (error["retryable"], result and result["files"])))
        return JobState.QUEUED if error["retryable"] and delay_s >= 0 else JobState.FAILED

    def release(self, _claim: Claim, *, delay_s: float, error: dict[str, Any] | None) -> JobState:
        self.told.append((f"release {error['code'] if error else ''}".strip(), delay_s > 0))
        return JobState.QUEUED

    def get(self, *key: str) -> Any:
        self._answer("get", (ObjectStoreUnavailable if len(key) == 1 else StoreUnavailable)("away"))
        raise AssertionError("nothing here")

    def check(self) -> None:
        self._answer("check", ObjectStoreUnavailable("away"))

    def put(self, key: str, body: bytes, content_type: str) -> StoredObject:
        self._answer("put", ObjectStoreUnavailable("away"))
        self.kept[key] = body
        return StoredObject(key, len(body), hashlib.sha256(body).hexdigest(), content_type)


class Witness(Hook):
    """What happened around the run."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.causes: list[DreamqueueError] = []
        self.bound: dict[str, Any] = {}
        self.ended: Ended | None = None

    def before_run(self, _context: JobContext) -> None:
        self.seen.append("before_run")
        self.bound = get_contextvars()

    def before_store(self, _context: JobContext) -> None:
        self.seen.append("before_store")

    def after_store(self, _context: JobContext) -> None:
        self.seen.append("after_store")

    def before_release(self, _context: JobContext, cause: DreamqueueError) -> None:
        self.seen.append("before_release")
        self.causes.append(cause)

    def after_run(self, _context: JobContext, ended: Ended) -> None:
        self.seen.append("after_run")
        self.ended = ended


class Bench:
    """A runner of true parts over servers in memory, and an engine for probes that does as it is told."""

    kinds = ("probe",)
    resumes = False

    def __init__(self, io: ThreadPoolExecutor) -> None:
        self.servers: Any = Servers()
        self.witness = Witness()
        self.does: Callable[[JobContext], Output] = lambda _context: MADE
        self.tasks: list[Task] = []
        self.is_draining = False
        self.asked_at_the_gate = threading.Event()
        self.runs = ActiveRuns()
        self.spool = Spool("", 0, self.servers)
        self.gate = ClaimGate(self.spool, self.servers, self._drains)
        snapshots = Snapshots(self.servers, self.servers, 0.0, FailPoints())
        inputs = Inputs(self.servers, self.servers, io, max_pixels=100, patience_s=0.0)
        self.runner = Runner(
            RunnerParts(
                claims=Claims(self.servers, self.runs, self.gate, ClaimTerms("p", "w", 15.0, 1.0), self._drains),
                maker=OutputMaker({"probe": self, "rank": self}, inputs, snapshots, self.spool),
                uploads=Uploads(self.servers, 0.0, io),
                store=self.servers,
                hooks=Hooks([self.witness, self.spool, self.gate]),
            ),
            pool="p",
            backoff=Backoff(0.001, 0.001),
        )

    def _drains(self) -> bool:
        self.asked_at_the_gate.set()
        return self.is_draining

    def load(self) -> list[Any]:
        return []

    def run(self, task: Task, context: Any) -> Output:
        """The engine's work."""
        self.tasks.append(task)
        assert context.is_in_engine
        return self.does(context)

    def pulls(self, **changes: Any) -> tuple[str, Any]:
        """One job, from its claim on; what the store was told in the end."""
        self.servers.claims.append(replace(claim(), **{"spec": {"kind": "probe"}, **changes}))
        assert self.runner.pull()
        assert len(self.runs) == 0
        return self.servers.told[-1] if self.servers.told else ("nothing", None)

    def raises(self, error: Exception) -> None:
        """The engine's next run."""

        def work(_context: JobContext) -> Output:
            raise error

        self.does = work

    def is_stopped(self, cause: Stopped, *, after: Output | None = None) -> None:
        """The engine's next run, at a step, or when it is done."""

        def work(context: JobContext) -> Output:
            context.stop(cause)
            if after is None:
                context.check()
            return after or Output()

        self.does = work


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ThreadPoolExecutor(2) as io:
        yield Bench(io)


def test_a_job_runs_from_its_claim_to_its_commit(bench: Bench) -> None:
    told, files = bench.pulls()
    assert told == "commit succeeded"
    assert [(file["name"], bench.servers.kept[file["key"]]) for file in files] == [("f", b"made")]
    assert bench.witness.seen == ["before_run", "before_store", "after_store", "after_run"]
    assert bench.witness.bound == {"job_id": "j", "kind": "probe", "attempt": 1, "tenant": "t", "request_id": ""}
    assert bench.witness.ended is not None
    assert (bench.witness.ended.outcome, bench.witness.ended.code) == ("succeeded", None)
    assert set(bench.witness.ended.timings) == {"queue_s", "upload_s", "run_s"}


def test_where_there_is_no_job_nothing_happens(bench: Bench) -> None:
    assert not bench.runner.pull()
    bench.servers.away = {"claim"}
    assert not bench.runner.pull()
    assert bench.witness.seen == []


@pytest.mark.parametrize(
    ("away", "spec", "code"),
    [
        ("get", ONE_PICTURE, "object_store_unavailable"),
        ("get", OF_A_JOB, "store_unavailable"),
        ("put", {"kind": "probe"}, "object_store_unavailable"),
    ],
)
def test_an_outage_is_no_fault_of_the_job(bench: Bench, away: str, spec: dict[str, Any], code: str) -> None:
    """It goes back, later, whatever it has failed before; and the worker looks before it claims more."""
    bench.servers.away = {away}
    assert bench.pulls(kind=spec["kind"], spec=spec, failures=99) == (f"release {code}", True)
    assert bench.gate.is_open == (code == "store_unavailable")
    assert bench.witness.seen[-2:] == ["before_release", "after_run"]


def test_what_is_made_is_brought_home_while_the_worker_drains(bench: Bench) -> None:
    bench.is_stopped(Draining("the worker stops"), after=MADE)
    assert bench.pulls()[0] == "commit succeeded"


def test_what_is_not_made_goes_back(bench: Bench) -> None:
    bench.is_stopped(Draining("the worker stops"))
    assert bench.pulls() == ("release", False)
    assert isinstance(bench.witness.causes[0], Draining)
    assert bench.gate.is_open


def test_a_job_of_another_attempt_is_left_alone(bench: Bench) -> None:
    bench.is_stopped(LeaseLost("x"), after=MADE)
    assert bench.pulls() == ("nothing", None)
    assert bench.witness.ended is not None
    assert (bench.witness.ended.outcome, bench.witness.ended.code) == ("lost", "lease_lost")
    assert bench.servers.kept == {}


@pytest.mark.parametrize(("before", "is_final"), [("", False), ("probe_failed", False), ("out_of_memory", True)])
def test_only_a_second_time_out_of_memory_is_final(bench: Bench, before: str, is_final: bool) -> None:
    """And only after one the engine is asked to take less. The error stays as it was raised."""
    error = OutOfMemory("full")
    bench.raises(error)
    assert bench.pulls(failures=1, last_error_code=before) == ("fail out_of_memory", (not is_final, None))
    assert bench.tasks[0].was_too_large is is_final
    assert error.retryable


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NonFinite("NaN"), ("fail non_finite", (False, None))),
        (MemoryError(), ("fail out_of_memory", (True, None))),
        (ZeroDivisionError(), ("fail internal", (True, None))),
        (Cancelled("x"), ("commit cancelled", [])),
        (DeadlineExceeded("x"), ("fail deadline_exceeded", (False, None))),
    ],
)
def test_every_error_becomes_an_outcome(bench: Bench, error: Exception, told: tuple[str, Any]) -> None:
    bench.raises(error)
    assert bench.pulls() == told


def test_a_kind_that_nobody_serves_here_fails(bench: Bench) -> None:
    assert bench.pulls(kind="dalle", spec={"kind": "dalle", "prompts": ["a"], "seed": 1})[0] == "fail model_unavailable"
    assert bench.pulls(spec={"kind": "probe", "steps": -1})[0] == "fail invalid_input"


class TestFinishedPictures:
    """Of a run that was stopped amid its work."""

    @pytest.mark.parametrize("cause", [Cancelled("x"), DeadlineExceeded("x")])
    def test_they_are_kept(self, bench: Bench, cause: Stopped) -> None:
        bench.raises(StoppedWithOutput(cause, MADE))
        told, said = bench.pulls()
        files = said if isinstance(cause, Cancelled) else said[1]
        assert told == ("commit cancelled" if isinstance(cause, Cancelled) else "fail deadline_exceeded")
        assert [file["name"] for file in files] == ["f"]

    def test_a_run_ends_as_it_would_where_they_cannot_be_stored(self, bench: Bench) -> None:
        bench.servers.away = {"put"}
        bench.raises(StoppedWithOutput(Cancelled("x"), MADE))
        assert bench.pulls() == ("commit cancelled", [])
        bench.raises(StoppedWithOutput(DeadlineExceeded("x"), MADE))
        assert bench.pulls() == ("fail deadline_exceeded", (False, None))

    def test_they_are_not_ours_after_a_drain(self, bench: Bench) -> None:
        bench.raises(StoppedWithOutput(Draining("x"), MADE))
        assert bench.pulls() == ("release", False)
        assert bench.servers.kept == {}


def test_what_could_not_be_stored_is_not_made_again(bench: Bench) -> None:
    bench.servers.away = {"put"}
    bench.pulls()
    bench.servers.away = set()
    bench.gate.look()
    assert bench.pulls(attempt=2)[0] == "commit succeeded"
    assert len(bench.tasks) == 1


def test_a_run_that_cannot_be_told_is_left_to_its_lease(bench: Bench) -> None:
    bench.servers.breaks = {"commit"}
    assert bench.pulls() == ("nothing", None)
    assert bench.witness.ended is not None
    assert bench.witness.ended.outcome == "unsettled"


def test_a_doorbell_waits_with_the_worker_that_may_not_claim(bench: Bench) -> None:
    """The gate is closed: the thread keeps the one bell it heard, instead of eating those of healthy workers."""
    bench.gate.pause_until_store_back()
    bench.servers.claims.append(replace(claim(), spec={"kind": "probe"}))
    thread = threading.Thread(target=bench.runner.pull, daemon=True)
    thread.start()
    assert bench.asked_at_the_gate.wait(PATIENCE_S)
    assert bench.servers.claims
    bench.gate.look()
    thread.join(PATIENCE_S)
    assert bench.servers.told[0][0] == "commit succeeded"


def test_who_drains_claims_nothing(bench: Bench) -> None:
    bench.is_draining = True
    bench.servers.claims.append(claim())
    assert not bench.runner.pull()
    assert bench.servers.claims
