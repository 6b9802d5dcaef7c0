"""From a claim to an output: its spec read, its pictures fetched, its engine run, the result encoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from pydantic import ValidationError

from shared.errors import InvalidInput, ModelUnavailable
from shared.records.job import Claim
from shared.specs.kinds import Spec, image_refs, read_spec
from worker.engines.base import Engine, Output, Task
from worker.executor.outcome import was_too_large
from worker.run.context import JobContext
from worker.transfer.encode import EncodedOutput, encode
from worker.transfer.inputs import Inputs
from worker.transfer.snapshots import Snapshots
from worker.transfer.spool import Spool

if TYPE_CHECKING:  # numpy, which a worker of probes does without
    from worker.collections.access import CollectionAccess
    from worker.collections.job_collections import JobCollections

__all__ = ["OutputMaker"]


class OutputMaker:
    """Thread-safe. `collections`: None where this worker serves none."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        inputs: Inputs,
        snapshots: Snapshots,
        spool: Spool,
        collections: CollectionAccess | None = None,
    ) -> None:
        self._engines = engines
        self._inputs = inputs
        self._snapshots = snapshots
        self._spool = spool
        self._collections = collections

    def output_of(self, context: JobContext) -> EncodedOutput:
        """What an earlier attempt left in the spool, or what the engine makes now. Raises Stopped, StoppedWithOutput,
        EngineError, InvalidInput, Unavailable."""
        return self._spool.get(context.claim) or self._made(context)

    def encoded(self, output: Output, context: JobContext) -> EncodedOutput:
        """As files, its timings noted."""
        context.timings.add(output.timings)
        with context.timings.stage("encode_s", applies=bool(output.pictures)):
            return encode(output)

    def _made(self, context: JobContext) -> EncodedOutput:
        encoded = self.encoded(self._run(context), context)
        if encoded.artifacts:
            self._spool.put(context.claim, encoded)
        return encoded

    def _run(self, context: JobContext) -> Output:
        claim = context.claim
        engine = self._engines.get(claim.kind)
        if engine is None:  # before the spec is read: its kind may be of a package that this worker does not have
            raise ModelUnavailable(f"no worker of this pool serves {claim.kind!r} jobs")
        spec = _spec_of(claim)
        refs = image_refs(spec)
        with context.timings.stage("fetch_s", applies=bool(refs)):
            images = self._inputs.fetch(refs, context) if refs else {}
        saved = self._snapshots.fetch(context) if engine.resumes else None
        context.check()
        with self._opened_collections(context) as collections, context.in_engine():
            output = engine.run(Task(spec, images, claim.failures, saved, was_too_large(claim), collections), context)
        context.snapshots.withdraw()
        return output

    @contextmanager
    def _opened_collections(self, context: JobContext) -> Iterator[JobCollections | None]:
        if self._collections is None:
            yield None
            return
        with closing(self._collections.of(context)) as collections:
            yield collections


def _spec_of(claim: Claim) -> Spec:
    """Validated again: the record may be older than this worker's limits, or newer."""
    try:
        return read_spec(claim.kind, claim.spec)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{field}: {first['msg']}", field=field) from None
