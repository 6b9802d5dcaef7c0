"""Every Redis key, in one table. All live under `dq:`; times are milliseconds by Redis' own clock.

What is on the wire keeps its name, since workers of an earlier version share it during an upgrade. In the code the
words are those of start-time fair queueing: `dq:turn` holds a tenant's virtual time (vtime), `dq:clock` the pool's
(vclock), `dq:tags` the times still owed (vtags); `dq:emptying` names the worker that drains for a suspect, `dq:held`
the paused jobs, `dq:nudge` is the control channel.

| key                      | type    | holds | ends |
| ---                      | ---     | --- | --- |
| dq:job:{tenant}:{id}     | hash    | one JobRecord (shared/records/job.py) | expire script, at expires_at |
| dq:ready:{pool}:{tenant} | zset    | ids ready to claim; score = rank: place in the order + priority offset | empty |
| dq:suspects:{pool}       | zset    | {tenant}:{id} that may only run alone; score = since when | empty |
| dq:emptying:{pool}       | string  | the worker that takes nothing more for a suspect, then that one's ref | a lease |
| dq:forced:{pool}         | string  | the worker that ran a suspect before the line, and owes it a job | that job |
| dq:sweep                 | hash    | `at`: the last sweep for leases; `spared_until`: none is reaped before | never |
| dq:held                  | zset    | {tenant}:{id} paused by their callers; score = since when | empty |
| dq:turn:{pool}           | zset    | tenants with ready jobs; score = virtual time of their next turn | empty |
| dq:clock:{pool}          | string  | virtual time of the last turn taken (start-time fair queueing) | never |
| dq:tags:{pool}           | hash    | tenant -> turn it is still owed to wait for, while nothing is ready | the turn |
| dq:auditor               | string  | the worker that audits | 1.5 audit periods |
| dq:bells                 | string  | doorbells rung ever; makes their ids | never |
| dq:order                 | string  | the last place in the order of jobs: ms, with a fraction | never |
| dq:weight                | hash    | tenant -> share, 1..10 (1 when absent) | never |
| dq:leases                | zset    | {tenant}:{id} of running jobs; score = lease deadline | empty |
| dq:delayed               | zset    | {tenant}:{id} waiting for a retry; score = due_at | empty |
| dq:deadlines             | zset    | {tenant}:{id} not final and with a deadline; score = deadline | empty |
| dq:expiry                | zset    | {tenant}:{id} of ended jobs; score = expires_at | empty |
| dq:jobs:{tenant}         | zset    | every id; score = created_at (lists, 410) | expire script, gone_ttl_s later |
| dq:queued:{tenant}       | string  | count of queued jobs, wherever they wait, for the quota | never |
| dq:events:{tenant}:{id}  | stream  | the job's events, capped | event_ttl_s after the end |
| dq:idem:{tenant}:{key}   | string  | fingerprint and job id of an Idempotency-Key | idempotency_ttl_s |
| dq:pools                 | set     | pools that ever held a job or a worker | never |
| dq:counts                | hash    | `{kind}:{what}` -> count: accepted, succeeded, failed, ... | never |
| dq:pace:{pool}           | hash    | kind -> moving average of run seconds | never |
| dq:worker:{name}         | string  | JSON of one live worker (WorkerInfo) | a lease without a beat |
| dq:workers               | zset    | worker names; score = last beat | swept by the reaper |
| dq:nudge:{worker}        | pub/sub channel | `{tenant}:{id}` to cancel, `pause {tenant}:{id}` to give back | - |
| dq:key:{kid}             | hash    | API key: secret's sha256, tenant, scopes, expires_at | revoked |
| dq:collection:{tenant}:{name} | hash | one Collection (shared/store/collections.py) | deleted |
| dq:collections:{tenant}  | zset    | names of collections; score = created_at | empty |
| dq:uncompacted           | zset    | {tenant}:{name} of collections to compact; score = since when | a worker |
| dq:dropped               | zset    | tables of deleted or re-embedded collections; score = since when | a worker |
| dq:bell:{pool}           | list    | doorbells, in Celery's wire form; kombu pops them | empty |
"""

from __future__ import annotations

__all__ = ["PREFIX", "bell", "control", "events", "job", "key", "queue_name", "ref", "split_ref", "worker"]

PREFIX = "dq:"


def ref(tenant: str, job_id: str) -> str:
    """How sets name a job. A tenant is part of it, so no id can reach another tenant's job."""
    return f"{tenant}:{job_id}"


def split_ref(value: str) -> tuple[str, str]:
    """Tenant and id of a ref; tenants hold no colon."""
    tenant, _, job_id = value.partition(":")
    return tenant, job_id


def job(tenant: str, job_id: str) -> str:
    """The record's hash."""
    return f"{PREFIX}job:{tenant}:{job_id}"


def events(tenant: str, job_id: str) -> str:
    """The job's event stream."""
    return f"{PREFIX}events:{tenant}:{job_id}"


def worker(name: str) -> str:
    """One live worker's description."""
    return f"{PREFIX}worker:{name}"


def control(worker_name: str) -> str:
    """The channel that tells a worker of a cancel at once."""
    return f"{PREFIX}nudge:{worker_name}"


def key(kid: str) -> str:
    """One API key."""
    return f"{PREFIX}key:{kid}"


def queue_name(pool: str) -> str:
    """The Celery queue of a pool; with the transport's global prefix its Redis key is bell(pool)."""
    return f"bell:{pool}"


def bell(pool: str) -> str:
    """The Redis list behind queue_name(pool)."""
    return f"{PREFIX}{queue_name(pool)}"
