"""Long polls: block on the job's event stream, read the record again at every event."""

from __future__ import annotations

import time
from collections.abc import Callable

from api.http.services import BLOCK_S, Services
from shared.records.job import JobRecord

__all__ = ["await_end", "await_job"]


def await_job(
    services: Services, tenant: str, job_id: str, wait_s: float, is_done: Callable[[JobRecord], bool]
) -> JobRecord:
    """The record as soon as `is_done`, or as it is after `wait_s`. Raises NotFound, Expired, StoreUnavailable.

    The stream's end is read before the record, so an event between the two ends the block at once.
    """
    end = time.monotonic() + wait_s
    while True:
        seen = services.events.last_id(tenant, job_id) if wait_s > 0 else "0-0"
        record = services.store.get(tenant, job_id)
        left_s = end - time.monotonic()
        if left_s <= 0 or is_done(record):
            return record
        block_ms = max(1, int(min(left_s, BLOCK_S) * 1000))
        services.events.read(tenant, job_id, after=seen, block_ms=block_ms, limit=1)


def await_end(services: Services, tenant: str, job_id: str, wait_s: float) -> JobRecord:
    """The record as soon as the job has ended, or as it is after `wait_s`; raises as await_job. The record is read
    before and after, not at every event between: a search is over within a few milliseconds of them.
    """
    end = time.monotonic() + wait_s
    seen = services.events.last_id(tenant, job_id) if wait_s > 0 else "0-0"
    record = services.store.get(tenant, job_id)
    while not record.is_final and (left_s := end - time.monotonic()) > 0:
        block_ms = max(1, int(min(left_s, BLOCK_S) * 1000))
        events = services.events.read(tenant, job_id, after=seen, block_ms=block_ms)
        seen = events[-1].id if events else seen
        if not events or any(event.type == "finished" for event in events):
            record = services.store.get(tenant, job_id)
    return record if record.is_final or wait_s <= 0 else services.store.get(tenant, job_id)
