"""Every error dreamqueue raises on purpose. Foreign exceptions are translated where they enter (store, storage).

DreamqueueError
├── InvalidInput           invalid_input          422  a field is wrong; names the field and the limit
├── Unauthorized           unauthorized           401  no key, or a key nobody holds
├── Forbidden              forbidden              403  a good key without the scope
├── NotFound               not_found              404  unknown, or another tenant's: they look the same
├── Expired                expired                410  it was there; its time is over
├── Conflict               conflict               409  same idempotency key or id, other content
│   └── CollectionMoved    conflict                    another table answers for the collection now; retryable
├── NotCancellable         already_final          409  the job has ended
├── QueueFull              queue_full             429  this tenant has too many queued jobs; retryable
├── Unavailable            (retryable, 503)
│   ├── StoreUnavailable        store_unavailable         Redis is down, full or too slow
│   ├── ObjectStoreUnavailable  object_store_unavailable  the S3 endpoint is down or refuses
│   └── VectorsUnavailable      vectors_unavailable       the vector index is down, or unfit for several workers
├── EngineError            engine_error           a model could not do its work
│   ├── ModelUnavailable   model_unavailable      no such model in this pool
│   ├── UnreadableImage    unreadable_image       an input picture cannot be decoded
│   ├── VectorsUnfit       vectors_unfit          the vector index cannot be shared as it is set up
│   ├── NonFinite          non_finite             a model produced NaN or infinity
│   ├── OutOfMemory        out_of_memory          the device is full; retryable once, with smaller batches
│   └── ProbeFailed        probe_failed           a probe job was told to fail; retryable as its spec says
├── Stopped                the run must end now; never a job's own fault
│   ├── Cancelled          cancelled              the caller asked for it
│   ├── DeadlineExceeded   deadline_exceeded      the job's deadline passed while it ran
│   ├── LeaseLost          lease_lost             another attempt owns the job
│   ├── Draining           draining               the worker is told to stop; the job goes back
│   └── Yielded            yielded                paused, or a high job needs the slot; the job goes back
├── WorkerLost             worker_lost            workers died under this job too often
├── UnreadableRecord       unreadable_record      what is stored makes no sense to this version
└── Internal               internal               a fault of ours; retryable
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "Cancelled",
    "CollectionMoved",
    "Conflict",
    "DeadlineExceeded",
    "Draining",
    "DreamqueueError",
    "EngineError",
    "Expired",
    "Forbidden",
    "Internal",
    "InvalidInput",
    "LeaseLost",
    "ModelUnavailable",
    "NonFinite",
    "NotCancellable",
    "NotFound",
    "ObjectStoreUnavailable",
    "OutOfMemory",
    "ProbeFailed",
    "QueueFull",
    "Stopped",
    "StoreUnavailable",
    "Unauthorized",
    "Unavailable",
    "UnreadableImage",
    "UnreadableRecord",
    "VectorsUnavailable",
    "VectorsUnfit",
    "WorkerLost",
    "Yielded",
]


class DreamqueueError(Exception):
    """Root of the tree. `code` is stable and documented; `retryable` says whether the same call may succeed later."""

    code: ClassVar[str] = "error"
    retryable: bool = False
    status: ClassVar[int] = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def to_json(self) -> dict[str, Any]:
        """The form a job record and a problem document carry."""
        return {"code": self.code, "message": self.message, "retryable": self.retryable}


class InvalidInput(DreamqueueError):
    """A field is wrong. `field` is its path (`input.prompts.0`), `limit` the bound it broke, where there is one."""

    code = "invalid_input"
    status = 422

    def __init__(self, message: str, *, field: str = "", limit: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.limit = limit


class Unauthorized(DreamqueueError):
    """No key, or a key that nobody holds."""

    code = "unauthorized"
    status = 401


class Forbidden(DreamqueueError):
    """The key is good but lacks the scope."""

    code = "forbidden"
    status = 403


class NotFound(DreamqueueError):
    """Unknown to this tenant; another tenant's looks the same."""

    code = "not_found"
    status = 404


class Expired(DreamqueueError):
    """It existed; its retention is over."""

    code = "expired"
    status = 410


class Conflict(DreamqueueError):
    """The same idempotency key or client id came with other content."""

    code = "conflict"
    status = 409


class CollectionMoved(Conflict):
    """The collection was re-embedded while this job wrote to its old table; the next attempt writes to the new one."""

    retryable = True


class NotCancellable(DreamqueueError):
    """The job has already ended; a final state never changes."""

    code = "already_final"
    status = 409


class QueueFull(DreamqueueError):
    """This tenant has as many queued jobs as it may have."""

    code = "queue_full"
    retryable = True
    status = 429


class Unavailable(DreamqueueError):
    """A server this one depends on does not answer; sending the same again is safe."""

    retryable = True
    status = 503


class StoreUnavailable(Unavailable):
    """Redis is down, full, or too slow."""

    code = "store_unavailable"


class ObjectStoreUnavailable(Unavailable):
    """The object store is down or refuses."""

    code = "object_store_unavailable"


class VectorsUnavailable(Unavailable):
    """The vector index is down, or unfit to be shared."""

    code = "vectors_unavailable"


class EngineError(DreamqueueError):
    """A model could not do its work."""

    code = "engine_error"


class ModelUnavailable(EngineError):
    """No such model on this worker."""

    code = "model_unavailable"


class UnreadableImage(EngineError):
    """An input picture cannot be decoded or is gone."""

    code = "unreadable_image"


class VectorsUnfit(EngineError):
    """The vector index cannot be shared by workers as it is set up; they do not start with it."""

    code = "vectors_unfit"


class NonFinite(EngineError):
    """A model produced NaN or infinity."""

    code = "non_finite"


class OutOfMemory(EngineError):
    """The device is full. The runner retries it once, then it is final."""

    code = "out_of_memory"
    retryable = True


class ProbeFailed(EngineError):
    """A probe job was told to fail."""

    code = "probe_failed"

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


class Stopped(DreamqueueError):
    """The run must end at once. Raised inside engines by the run's context, handled by the runner."""


class Cancelled(Stopped):
    """The caller asked for it."""

    code = "cancelled"


class DeadlineExceeded(Stopped):
    """The job's deadline passed while it ran."""

    code = "deadline_exceeded"


class LeaseLost(Stopped):
    """Another attempt owns the job; whatever this one made is thrown away."""

    code = "lease_lost"


class Draining(Stopped):
    """The worker is told to stop; the job goes back to the queue without a penalty."""

    code = "draining"


class Yielded(Stopped):
    """The job stands aside: its caller paused it, or one of high priority needs the slot. It goes back without a
    penalty; an engine that can go on later takes a snapshot first."""

    code = "yielded"


class WorkerLost(DreamqueueError):
    """Workers died under this job too often."""

    code = "worker_lost"


class UnreadableRecord(DreamqueueError):
    """A stored record that this version can make no sense of: damaged, or of a version that changed what a field means.
    It ends its own job and stops nobody else's; the message names the fields."""

    code = "unreadable_record"


class Internal(DreamqueueError):
    """A fault of ours that no other class names."""

    code = "internal"
    retryable = True
