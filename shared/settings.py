"""The only reader of the environment: one frozen object, every field with its unit, default and consequence.

Each field `name` is read from `DREAMQUEUE_NAME`; deploy/env.example lists them all (a test holds the two together).
"""

from __future__ import annotations

import os
import socket
import zlib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

__all__ = ["ENV_PREFIX", "Settings"]

ENV_PREFIX = "DREAMQUEUE_"


class Settings(BaseModel):
    """What an operator may set. Unknown `DREAMQUEUE_*` names are ignored: client settings share the prefix."""

    model_config = ConfigDict(frozen=True)

    # Servers
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        pattern=r"^rediss?://",
        description="job store and Celery broker, one server; rediss:// for TLS, ?ssl_ca_certs=FILE for an own CA",
    )
    redis_timeout_s: float = Field(2.0, gt=0, description="per command; beyond it the API answers 503")
    s3_endpoint: str = Field("http://127.0.0.1:9000", description="as the API and the workers reach it")
    s3_public_endpoint: str = Field("", description="as a caller's browser reaches it; empty: the same")
    s3_bucket: str = Field("dreamqueue", description="created at start when missing")
    s3_region: str = Field("us-east-1", description="signed into presigned URLs")
    s3_access_key: str = Field("dreamqueue", description="access key id")
    s3_secret_key: str = Field("dreamqueue-secret", description="secret access key")
    s3_timeout_s: float = Field(10.0, gt=0, description="connect and read, per try")
    presign_ttl_s: int = Field(900, ge=1, le=3600, description="life of an artifact URL handed out")

    # Queue
    lease_s: float = Field(15.0, gt=0, description="a silent worker loses its jobs after this long")
    beat_s: float = Field(4.0, gt=0, description="heartbeat period; three must fit in a lease")
    reap_period_s: float = Field(1.0, gt=0, description="how often each worker looks for expired leases")
    max_failures: int = Field(3, ge=1, description="retryable errors after which a job fails for good")
    max_losses: int = Field(3, ge=2, description="lost workers that fail a job; the last one must have run it alone")
    isolate_after_s: float = Field(
        5.0,
        ge=0,
        description="a job that must run alone waits so long for an idle worker, then one empties itself for it",
    )
    preempt_after_s: float = Field(
        2.0, ge=0, description="a ready high job waits so long before a running low one is called away; 0: never"
    )
    audit_period_s: float = Field(
        60.0, gt=0, description="how often one of the workers holds the sets against the records"
    )
    retry_base_s: float = Field(2.0, ge=0, description="retry n waits up to base*2**n, full jitter")
    retry_cap_s: float = Field(300.0, ge=0, description="longest wait before a retry")
    max_queued_per_tenant: int = Field(
        20_000, ge=1, description="429 above, for searches a tenth later; bounds Redis memory"
    )
    result_ttl_s: int = Field(7 * 86_400, ge=1, description="record and artifacts of an ended job go after this")
    gone_ttl_s: int = Field(30 * 86_400, ge=1, description="an expired id answers 410 this long, 404 after")
    idempotency_ttl_s: int = Field(86_400, ge=1, description="life of an Idempotency-Key")
    event_ttl_s: int = Field(3_600, ge=1, description="a job's event stream outlives its end by this")
    events_max_len: int = Field(1_000, ge=10, description="events kept per job; older ones are trimmed")

    # Search
    vectors_url: str = Field(
        "",
        description="where collections' vectors lie: a folder that all workers of a host share, s3://PREFIX in the "
        "bucket above, or a Qdrant server's http://...; empty: no worker serves collections",
    )
    vectors_api_key: str = Field("", description="of a Qdrant server; empty: none")
    search_pool: str = Field(
        "",
        pattern=r"^([a-z0-9][a-z0-9-]{0,27})?$",
        description="pool of `search` jobs, so that none waits behind pictures; empty: the same as all others",
    )
    search_shards: int = Field(
        1, ge=1, le=64, description="of search_pool: SEARCH_POOL-0 and so on; each keeps its own collections in memory"
    )
    search_cache_bytes: int = Field(
        2 * 2**30, ge=0, description="vectors that one worker keeps in memory; the longest unused ones go first"
    )
    search_ann_rows: int = Field(
        500_000, ge=1_000, description="a collection of more rows is searched by an approximate index, on disk"
    )
    search_result_ttl_s: int = Field(600, ge=1, description="record of an ended search job goes after this")
    collect_generated: bool = Field(
        False, description="generated pictures go to their tenant's collection `generated` unless a job says otherwise"
    )
    archive_max_bytes: int = Field(256 * 2**20, ge=1024, description="largest archive of pictures, as sent")
    fetch_hosts: str = Field(
        "", description="hosts, comma-separated, whose pictures are fetched though their addresses are private"
    )
    fetch_timeout_s: float = Field(10.0, gt=0, description="one picture by URL, redirects included")

    # API
    bind: str = Field("127.0.0.1:8000", description="address the API listens on; 0.0.0.0:8000 for all interfaces")
    api_processes: int = Field(2, ge=1, le=256, description="API processes; about one per core")
    redis_connections: int = Field(
        1_000, ge=8, description="per process and kind of client; each waiting caller holds one, 503 beyond"
    )
    body_max_bytes: int = Field(2**20, ge=1024, description="largest JSON body")
    image_max_bytes: int = Field(10 * 2**20, ge=1024, description="largest uploaded picture")
    image_max_pixels: int = Field(25_000_000, ge=4096, description="width times height of an uploaded picture")
    key_cache_s: float = Field(5.0, ge=0, description="a revoked key works at most this much longer")

    # Worker
    pool: str = Field("default", pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", description="which pool this worker serves")
    worker_name: str = Field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    slots: int = Field(4, ge=1, le=256, description="jobs in flight in one worker; Celery's thread count")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    cpu_threads: int = Field(0, ge=0, description="torch threads; 0: one per core")
    device_memory_bytes: int = Field(
        0, ge=0, description="memory that engines may use of the device; 0: what is free when a batch begins"
    )
    deterministic: bool = Field(
        False,
        description="batches of one shape: a picture is equal to the last bit whatever is co-batched, at some cost",
    )
    weights_dir: str = Field("", description="folder of registry.json; empty: the shipped models")
    kinds: str = Field(
        "default", description="kinds this worker serves, comma-separated; default: all that its installation brings"
    )
    worker_metrics_port: int = Field(9101, ge=0, le=65535, description="the worker's /metrics; 0: any free port")
    drain_grace_s: float = Field(20.0, ge=0, description="SIGTERM: running jobs may finish this long, then go back")
    upload_patience_s: float = Field(
        300.0,
        ge=0,
        description="an output waits this long for the object store, its lease held; then it goes back",
    )
    recycle_after_jobs: int = Field(0, ge=0, description="drain and exit 0 after so many jobs; 0: never")
    recycle_rss_growth: float = Field(
        0.0, ge=0, description="drain and exit 0 when memory has grown by this share since the tenth job; 0: never"
    )
    spool_dir: str = Field(
        "", description="folder for outputs until they are stored; workers of a host share it; empty: memory only"
    )
    spool_max_bytes: int = Field(2 * 2**30, ge=0, description="all outputs in spool_dir; beyond it nothing is claimed")
    step_timeout_s: float = Field(
        120.0, ge=0, description="an engine silent this long hangs: the process ends; a first step may take 5 times it"
    )
    snapshot_every_s: float = Field(
        5.0, ge=0, description="how often a long run saves what it reached; 0: never, and a lost run starts anew"
    )

    # Logs
    log_level: str = Field("info", pattern=r"^(debug|info|warning|error)$", description="least severity written")
    access_log: bool = Field(
        False, description="one line per HTTP request; off, metrics count them, and a job's acceptance has its own line"
    )
    log_format: str = Field("json", pattern=r"^(json|console)$", description="json for machines, console for people")

    @property
    def stop_within_s(self) -> float:
        """SIGTERM to exit: the grace, the last uploads and snapshots, engines that do not hear, a Redis that is away.
        Supervisors kill no sooner (deploy/RUNBOOK.md)."""
        return self.drain_grace_s + 30.0

    @model_validator(mode="after")
    def _beats_fit(self) -> Settings:
        if self.beat_s * 3 > self.lease_s:
            raise ValueError(
                f"three beats must fit in a lease: {ENV_PREFIX}BEAT_S is {self.beat_s:g}, so {ENV_PREFIX}LEASE_S "
                f"must be {3 * self.beat_s:g} at least, not {self.lease_s:g}"
            )
        return self

    def pool_of(self, kind: str, collection: str = "") -> str:
        """Where a job of `kind` about the collection of that id queues: searches of one collection share a pool, whose
        workers keep it in memory."""
        if kind != "search" or not self.search_pool:
            return self.pool
        if self.search_shards == 1:
            return self.search_pool
        return f"{self.search_pool}-{zlib.crc32(collection.encode()) % self.search_shards}"

    @property
    def public_s3_endpoint(self) -> str:
        """The endpoint presigned URLs point to."""
        return self.s3_public_endpoint or self.s3_endpoint

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read `DREAMQUEUE_*`. Raises SystemExit with the variable's name when a value is wrong."""
        source = os.environ if env is None else env
        values: dict[str, Any] = {
            name: source[ENV_PREFIX + name.upper()] for name in cls.model_fields if ENV_PREFIX + name.upper() in source
        }
        try:
            return cls(**values)
        except ValidationError as error:
            lines = [
                f"{ENV_PREFIX}{str(e['loc'][0]).upper()}: {e['msg']} (got {e['input']!r})" if e["loc"] else e["msg"]
                for e in error.errors()
            ]
            raise SystemExit("bad settings\n  " + "\n  ".join(lines)) from None
