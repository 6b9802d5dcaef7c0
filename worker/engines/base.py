"""What every engine offers, and what it may ask of whoever runs it.

An engine turns one task into an output. It knows no Redis, no object store, no clock of the queue: it reports
through a RunContext, whose calls raise Stopped (cancelled, deadline, lease lost, draining) between two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from PIL.Image import Image

from shared.errors import Cancelled, DeadlineExceeded, EngineError, Stopped
from shared.specs.types import Spec

if TYPE_CHECKING:  # numpy, which a worker of probes does without
    from worker.engines.collection_access import TenantCollections

__all__ = ["Engine", "Model", "Output", "Picture", "RunContext", "StoppedWithOutput", "Task", "keeping"]


S_co = TypeVar("S_co", bound=Spec, covariant=True)


@dataclass(frozen=True)
class Task(Generic[S_co]):
    """One attempt of one job, as an engine sees it."""

    spec: S_co  # of a type that the engine's kinds have; its seed is resolved where it has one
    images: Mapping[str, Image]  # every picture the spec names, by reference, decoded to RGB
    failures: int = 0  # earlier attempts of this job that ended in a retryable error
    snapshot: bytes | None = None  # what an earlier attempt of this job saved last, if its engine resumes
    was_too_large: bool = False  # the last attempt that failed found the device full: take less at a time
    collections: TenantCollections | None = None  # the tenant's collections, where this worker serves any

    @property
    def needed_collections(self) -> TenantCollections:
        """The tenant's collections, for kinds that cannot do without. Raises EngineError where there are none."""
        if self.collections is None:
            raise EngineError("this worker serves no collections")
        return self.collections


@dataclass(frozen=True)
class Picture:
    """One generated picture. `score` is CLIP's cosine with its prompt, None where nothing ranked it."""

    image: Image  # RGB
    prompt: str
    seed: int
    index: int  # which of the n candidates of its prompt; (seed, index) draws it again
    score: float | None = None


@dataclass(frozen=True)
class Model:
    """A loaded model, as results name it."""

    id: str
    family: str
    sha256: str


@dataclass(frozen=True)
class Output:
    """What an engine made: pictures (best first within each prompt), other files, or data only."""

    pictures: list[Picture] = field(default_factory=list)
    files: dict[str, tuple[bytes, str]] = field(default_factory=dict)  # name -> (content, content type)
    data: dict[str, Any] = field(default_factory=dict)  # goes into the result as it is: scores, order, labels
    parameters: dict[str, Any] = field(default_factory=dict)  # the resolved parameters, defaults filled in
    models: list[Model] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)  # seconds per stage, names ending in _s


class StoppedWithOutput(Exception):
    """A run that was stopped but has finished pictures worth keeping. `cause` is what stopped it."""

    def __init__(self, cause: Stopped, output: Output) -> None:
        super().__init__(cause.message)
        self.cause = cause
        self.output = output


@contextmanager
def keeping(finished: Callable[[], Output | None]) -> Iterator[None]:
    """Around a run: where a cancel or the deadline stops it, StoppedWithOutput takes out what is `finished`, if that is
    not None."""
    try:
        yield
    except (Cancelled, DeadlineExceeded) as stop:
        output = finished()
        if output is None:
            raise
        raise StoppedWithOutput(stop, output) from None


class RunContext(Protocol):
    """How an engine talks to the job's runner. Cheap: throttling and I/O are the runner's business."""

    def check(self) -> None:
        """Raise a Stopped when the run must end. Engines call it at least once per step."""

    def progress(self, stage: str, step: int, total: int) -> None:
        """Where the run is; also checks. `step` of `total` within `stage` (`sample`, `rank`, `optimise`, ...)."""

    def preview(self, image: Image, step: int) -> None:
        """A picture of the unfinished result. Dropped when the last one is still being stored."""

    def snapshot(self, step: int, make: Callable[[], bytes]) -> None:
        """The run can be saved as it is now, after `step`. `make` is called at once when a snapshot is due, and once
        more from the run's own thread when the run was stopped and its job goes back to the queue: until the next
        offer it must give the bytes from which Task.snapshot goes on to the same output."""

    def resumed(self, step: int) -> None:
        """Task.snapshot was good: the run goes on after `step`."""


class Engine(Protocol):
    """Serves the kinds whose declaration names it. `load` comes before the first task; `run` may be called from several
    threads, with tasks of those kinds only."""

    resumes: bool  # whether its runs offer snapshots and go on from them

    def load(self) -> list[Model]:
        """Bring the models to the device. Raises ModelUnavailable."""

    def run(self, task: Task[Any], context: RunContext) -> Output:
        """Do the task. Raises EngineError, Stopped or StoppedWithOutput."""
