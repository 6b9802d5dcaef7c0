"""Every Redis key, in one table, and the functions that build them. Times are milliseconds by Redis' own clock.

scripts/lib/keys.lua has the same builders, `NAME_key`; a contract test holds both against this table. There, what is
named by tenant and id together takes one argument, the ref `{tenant}:{id}`.

What is on the wire keeps its name, since workers of an earlier version share it during an upgrade. In the code the
words are those of start-time fair queueing (vtime, vclock, vtags) and of what the key is for.

| builder | key | type | holds | ends |
| --- | --- | --- | --- | --- |
| job | dq:job:{tenant}:{id} | hash | one JobRecord (shared/records/job.py) | at expires_at |
| ready | dq:ready:{pool}:{tenant} | zset | ids ready to claim; score = rank: order + priority offset | empty |
| suspects | dq:suspects:{pool} | zset | {tenant}:{id} that may only run alone; score = since when | empty |
| draining | dq:emptying:{pool} | string | the worker that takes nothing for a suspect, then that one's ref | a lease |
| forced_by | dq:forced:{pool} | string | the worker that ran a suspect before the line, and owes it a job | that job |
| sweep | dq:sweep | hash | `at`: the last sweep for leases; `spared_until`: none is reaped before | never |
| paused | dq:held | zset | {tenant}:{id} paused by their callers; score = since when | empty |
| vtime | dq:turn:{pool} | zset | tenants with ready jobs; score = virtual time of their next turn | empty |
| vclock | dq:clock:{pool} | string | virtual time of the last turn taken (start-time fair queueing) | never |
| vtags | dq:tags:{pool} | hash | tenant -> turn it is still owed to wait for, while nothing is ready | the turn |
| auditor | dq:auditor | string | the worker that audits | 1.5 audit periods |
| bells | dq:bells | string | doorbells rung ever; makes their ids | never |
| order | dq:order | string | the last place in the order of jobs: ms, with a fraction | never |
| weight | dq:weight | hash | tenant -> share, 1..10 (1 when absent) | never |
| leases | dq:leases | zset | {tenant}:{id} of running jobs; score = lease deadline | empty |
| delayed | dq:delayed | zset | {tenant}:{id} waiting for a retry; score = due_at | empty |
| deadlines | dq:deadlines | zset | {tenant}:{id} not final and with a deadline; score = deadline | empty |
| expiry | dq:expiry | zset | {tenant}:{id} of ended jobs; score = expires_at | empty |
| jobs | dq:jobs:{tenant} | zset | every id; score = created_at (lists, 410) | gone_ttl_s later |
| queued | dq:queued:{tenant} | string | count of queued jobs, wherever they wait, for the quota | never |
| events | dq:events:{tenant}:{id} | stream | the job's events, capped | event_ttl_s after the end |
| idem | dq:idem:{tenant}:{key} | string | fingerprint and job id of an Idempotency-Key | idempotency_ttl_s |
| pools | dq:pools | set | pools that ever held a job or a worker | never |
| counts | dq:counts | hash | `{kind}:{what}` -> count: accepted, succeeded, failed, ... | never |
| pace | dq:pace:{pool} | hash | kind -> moving average of run seconds | never |
| worker | dq:worker:{name} | string | JSON of one live worker (WorkerInfo) | a lease without a beat |
| workers | dq:workers | zset | worker names; score = last beat | swept by the reaper |
| control | dq:nudge:{worker} | channel | `{tenant}:{id}` to cancel, `pause {tenant}:{id}` to give back | - |
| key | dq:key:{kid} | hash | API key: secret's sha256, tenant, scopes, expires_at | revoked |
| collection | dq:collection:{tenant}:{name} | hash | one Collection (shared/store/collections.py) | deleted |
| collections | dq:collections:{tenant} | zset | names of collections; score = created_at | empty |
| uncompacted | dq:uncompacted | zset | {tenant}:{name} of collections to compact; score = since when | a worker |
| dropped | dq:dropped | zset | tables of deleted or re-embedded collections; score = since when | a worker |
| bell | dq:bell:{pool} | list | doorbells, in Celery's wire form; kombu pops them | empty |
| nothing | dq:nothing | - | nothing, ever: to delete it is a write that needs no memory | - |
"""

from __future__ import annotations

__all__ = [
    "PREFIX", "auditor", "bell", "bells", "collection", "collections", "control", "counts", "deadlines", "delayed",
    "draining", "dropped", "events", "expiry", "forced_by", "idem", "job", "jobs", "key", "leases", "nothing", "order",
    "pace", "paused", "pools", "queue_name", "queued", "ready", "ref", "split_ref", "suspects", "sweep", "uncompacted",
    "vclock", "vtags", "vtime", "weight", "worker", "workers",
]  # fmt: skip

PREFIX = "dq:"  # the scripts are told, as conf.prefix; nothing else says it


def ref(tenant: str, job_id: str) -> str:
    """How sets name a job. A tenant is part of it, so no id can reach another tenant's job."""
    return f"{tenant}:{job_id}"


def split_ref(value: str) -> tuple[str, str]:
    """Tenant and id of a ref; tenants hold no colon."""
    tenant, _, job_id = value.partition(":")
    return tenant, job_id


def queue_name(pool: str) -> str:
    """The Celery queue of a pool; with the transport's global prefix its Redis key is bell(pool)."""
    return f"bell:{pool}"


# --- one job -----------------------------------------------------------------------------------------------------


def job(tenant: str, job_id: str) -> str:
    """The record's hash."""
    return f"{PREFIX}job:{tenant}:{job_id}"


def events(tenant: str, job_id: str) -> str:
    """The job's event stream."""
    return f"{PREFIX}events:{tenant}:{job_id}"


# --- where jobs wait, in one pool --------------------------------------------------------------------------------


def ready(pool: str, tenant: str) -> str:
    """One tenant's jobs in line."""
    return f"{PREFIX}ready:{pool}:{tenant}"


def suspects(pool: str) -> str:
    """Jobs that may only run alone."""
    return f"{PREFIX}suspects:{pool}"


def draining(pool: str) -> str:
    """Which worker is set apart for a suspect."""
    return f"{PREFIX}emptying:{pool}"


def forced_by(pool: str) -> str:
    """Which worker ran a suspect before the line."""
    return f"{PREFIX}forced:{pool}"


def vtime(pool: str) -> str:
    """When each tenant's turn is."""
    return f"{PREFIX}turn:{pool}"


def vclock(pool: str) -> str:
    """The virtual time."""
    return f"{PREFIX}clock:{pool}"


def vtags(pool: str) -> str:
    """The turns of tenants that have nothing ready now."""
    return f"{PREFIX}tags:{pool}"


def pace(pool: str) -> str:
    """How long runs take, by kind."""
    return f"{PREFIX}pace:{pool}"


def bell(pool: str) -> str:
    """The Redis list behind queue_name(pool)."""
    return f"{PREFIX}{queue_name(pool)}"


# --- one tenant --------------------------------------------------------------------------------------------------


def jobs(tenant: str) -> str:
    """All ids of a tenant's jobs."""
    return f"{PREFIX}jobs:{tenant}"


def queued(tenant: str) -> str:
    """How many jobs of a tenant wait."""
    return f"{PREFIX}queued:{tenant}"


def idem(tenant: str, idempotency_key: str) -> str:
    """What an Idempotency-Key stands for."""
    return f"{PREFIX}idem:{tenant}:{idempotency_key}"


def collection(tenant: str, name: str) -> str:
    """One collection."""
    return f"{PREFIX}collection:{tenant}:{name}"


def collections(tenant: str) -> str:
    """The names of a tenant's collections."""
    return f"{PREFIX}collections:{tenant}"


def key(kid: str) -> str:
    """One API key."""
    return f"{PREFIX}key:{kid}"


# --- one worker --------------------------------------------------------------------------------------------------


def worker(name: str) -> str:
    """One live worker's description."""
    return f"{PREFIX}worker:{name}"


def control(worker_name: str) -> str:
    """The channel that tells a worker of a cancel at once."""
    return f"{PREFIX}nudge:{worker_name}"


# --- one of each -------------------------------------------------------------------------------------------------


def leases() -> str:
    """The running jobs."""
    return f"{PREFIX}leases"


def delayed() -> str:
    """Jobs that wait for a retry."""
    return f"{PREFIX}delayed"


def paused() -> str:
    """Jobs held by their callers."""
    return f"{PREFIX}held"


def deadlines() -> str:
    """Queued jobs that must have ended by a time."""
    return f"{PREFIX}deadlines"


def expiry() -> str:
    """Ended jobs."""
    return f"{PREFIX}expiry"


def pools() -> str:
    """The names of all pools."""
    return f"{PREFIX}pools"


def workers() -> str:
    """The names of live workers."""
    return f"{PREFIX}workers"


def weight() -> str:
    """The tenants' shares."""
    return f"{PREFIX}weight"


def counts() -> str:
    """What happened how often."""
    return f"{PREFIX}counts"


def order() -> str:
    """The last place given in the order of jobs."""
    return f"{PREFIX}order"


def bells() -> str:
    """How many doorbells were rung."""
    return f"{PREFIX}bells"


def sweep() -> str:
    """When leases were swept."""
    return f"{PREFIX}sweep"


def auditor() -> str:
    """Who audits."""
    return f"{PREFIX}auditor"


def uncompacted() -> str:
    """Collections to compact."""
    return f"{PREFIX}uncompacted"


def dropped() -> str:
    """Tables to delete."""
    return f"{PREFIX}dropped"


def nothing() -> str:
    """A key that never exists."""
    return f"{PREFIX}nothing"
