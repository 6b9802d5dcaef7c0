"""Which error ends a run how: every class of the tree, on purpose."""

from __future__ import annotations

import pytest

from shared import errors
from shared.errors import DreamqueueError, InvalidInput, OutOfMemory, ProbeFailed, UnreadableImage, VectorsUnavailable
from shared.records.job import JobState
from tests.unit.worker.test_run_context import Made
from worker.executor.outcome import (
    LEAST_DELAY_S,
    MAX_OUTAGE_ATTEMPTS,
    OUTCOMES,
    Committed,
    Discarded,
    Failed,
    Outcome,
    Released,
    outcome_of,
)
from worker.run.retry import Backoff

BACKOFF = Backoff(base_s=1e-6, cap_s=1e-6)
OTHER_THAN_FAILED: dict[type[DreamqueueError], type] = {
    errors.Cancelled: Committed,
    errors.LeaseLost: Discarded,
    errors.Draining: Released,
    errors.Yielded: Released,
    errors.Stopped: Released,
    errors.Unavailable: Released,
    errors.StoreUnavailable: Released,
    errors.ObjectStoreUnavailable: Released,
    errors.VectorsUnavailable: Released,
}


def tree(root: type[DreamqueueError] = DreamqueueError) -> list[type[DreamqueueError]]:
    """Every class of shared.errors; others' own are in no table."""
    below = [kind for child in root.__subclasses__() if child.__module__ == errors.__name__ for kind in tree(child)]
    return [root, *below]


def raised(kind: type[DreamqueueError]) -> DreamqueueError:
    return ProbeFailed("x", retryable=True) if kind is ProbeFailed else kind("x")


def outcome(error: DreamqueueError, **claim: object) -> Outcome:
    return outcome_of(error, Made(**claim).context.claim, BACKOFF)  # type: ignore[arg-type]


def test_the_table_names_the_whole_tree() -> None:
    assert set(OUTCOMES) == set(tree())


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_each_error_ends_a_run_in_its_way(kind: type[DreamqueueError]) -> None:
    """And whether the job runs again is what its class says."""
    error = raised(kind)
    reached = outcome(error)
    assert type(reached) is OTHER_THAN_FAILED.get(kind, Failed)
    if isinstance(reached, Failed):
        assert (reached.error, reached.runs_again, reached.result) == (error, error.retryable, None)
    assert reached.code == error.code


@pytest.mark.parametrize(("before", "runs_again"), [("", True), ("probe_failed", True), ("out_of_memory", False)])
def test_only_a_second_time_out_of_memory_is_final(before: str, runs_again: bool) -> None:
    error = OutOfMemory("full")
    reached = outcome(error, failures=1, last_error_code=before)
    assert isinstance(reached, Failed)
    assert reached.runs_again is runs_again
    assert error.retryable  # the error is as it was raised


def test_an_index_that_never_comes_back_does_not_keep_jobs_for_ever() -> None:
    away = VectorsUnavailable("away")
    assert isinstance(outcome(away, attempt=MAX_OUTAGE_ATTEMPTS - 1), Released)
    assert isinstance(outcome(away, attempt=MAX_OUTAGE_ATTEMPTS), Failed)


@pytest.mark.parametrize(
    ("kind", "delay_s"), [(errors.ObjectStoreUnavailable, LEAST_DELAY_S), (errors.Draining, 0.0), (errors.Yielded, 0.0)]
)
def test_only_an_outage_makes_a_job_wait(kind: type[DreamqueueError], delay_s: float) -> None:
    reached = outcome(raised(kind), failures=99)
    assert isinstance(reached, Released)
    assert reached.delay_s == delay_s


def test_a_cancelled_run_has_an_empty_result() -> None:
    reached = outcome(errors.Cancelled("x"))
    assert isinstance(reached, Committed)
    assert (reached.state, reached.result["images"], reached.follow_up) == (JobState.CANCELLED, [], None)


def test_an_error_of_an_engines_own_ends_as_its_ancestor_does() -> None:
    class Blurred(UnreadableImage):
        """Of an engine in another package."""

    assert isinstance(outcome(Blurred("x")), Failed)


def test_a_field_that_is_wrong_keeps_its_name() -> None:
    error = InvalidInput("no", field="prompts.0")
    reached = outcome(error)
    assert isinstance(reached, Failed)
    assert reached.error is error
