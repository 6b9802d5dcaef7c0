"""Outputs on their way to the object store, kept on this host's disk: what the device made once is not made again.

An output is spooled before its first upload and forgotten when its job has ended. Whoever claims the job next on this
host, this process or the one that is started after it, uploads what lies here and needs no device. One file per job:

    dreamqueue-output-1 <sha256 of the rest>
    {"ref", "data", "pictures": [...], "files": [...]}
    the files' contents, one after the other

Files are not synced: after a power cut a torn one is found by its checksum and its job is computed again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

from shared.errors import Expired, NotFound
from shared.logs import get_logger
from shared.metrics import OUTPUTS_REUSED, SPOOL_FULL
from shared.records.job import Claim
from shared.store import keys
from shared.store.jobs import JobStore
from worker.run.context import JobContext
from worker.run.hooks import Ended, Hook
from worker.threads import PeriodicThread
from worker.transfer.encode import Artifact, EncodedOutput

__all__ = ["Spool"]

log = get_logger(__name__)

MAGIC = b"dreamqueue-output-1"
SUFFIX = ".out"
HALF = ".half"
MEMORY_BYTES = 256 * 2**20  # of outputs that found no place on disk and whose runs are over; the oldest go first
SWEEP_EVERY_S = 60.0
TORN_S = 3600.0  # a half-written file older than this has nobody to finish it


class Spool(Hook):
    """Thread-safe, and any number of processes may share a folder. Without one, outputs are kept in memory only."""

    def __init__(self, folder: str, max_bytes: int, store: JobStore) -> None:
        self._folder = Path(folder) if folder else None
        self._max_bytes = max_bytes
        self._store = store
        self._lock = threading.Lock()
        self._in_memory: OrderedDict[str, EncodedOutput] = OrderedDict()
        self._written: set[str] = set()  # on disk, by this process
        self._unplaced: set[str] = set()  # held, their runs under way, and no place on disk
        self.thread = PeriodicThread("spool", SWEEP_EVERY_S, self.sweep)

    @property
    def is_full(self) -> bool:
        """Whether outputs wait in memory because the disk has no place: then nothing more should be claimed."""
        return bool(self._unplaced)

    def put(self, claim: Claim, encoded: EncodedOutput) -> None:
        """Keep what this run made. Never raises for the disk: it is kept in memory then."""
        ref = _ref(claim)
        if self._folder is not None:
            try:
                self._write(self._folder, ref, encoded)
                self._written.add(ref)
                return
            except OSError as error:
                log.error("no place in the spool; nothing is claimed until this output is stored", error=str(error))
        with self._lock:
            self._in_memory[ref] = encoded
            if self._folder is not None:
                self._unplaced.add(ref)
                SPOOL_FULL.set(1)

    def get(self, claim: Claim) -> EncodedOutput | None:
        """What an earlier attempt of this job made on this host, if it is there and whole."""
        if claim.attempt == 1:
            return None
        ref = _ref(claim)
        with self._lock:
            encoded = self._in_memory.get(ref)
        if encoded is None and self._folder is not None:
            encoded = _read(_path(self._folder, ref), ref)
        if encoded is not None:
            OUTPUTS_REUSED.labels(claim.kind).inc()
            log.info("output found in the spool")
        return encoded

    def after_run(self, context: JobContext, ended: Ended) -> None:
        """What the run made is kept while its job has not ended."""
        self.finished(context.claim, ended.is_final)

    def finished(self, claim: Claim, has_ended: bool) -> None:
        """The run is over. What it made is kept while the job has not ended."""
        ref = _ref(claim)
        with self._lock:
            self._unplaced.discard(ref)
            SPOOL_FULL.set(bool(self._unplaced))
            if has_ended:
                self._in_memory.pop(ref, None)
            while sum(item.bytes for item in self._in_memory.values()) > MEMORY_BYTES:
                dropped, _ = self._in_memory.popitem(last=False)
                log.warning("an output that could not be stored is dropped", ref=dropped)
        if has_ended and self._folder is not None and (claim.attempt > 1 or ref in self._written):
            self._written.discard(ref)
            with suppress(OSError):  # never written, or the sweep's business
                _path(self._folder, ref).unlink()

    # --- the disk --------------------------------------------------------------------------------------------------

    def _write(self, folder: Path, ref: str, encoded: EncodedOutput) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # pictures of all tenants
        content = _packed(ref, encoded)
        if self._used(folder) + len(content) > self._max_bytes:
            raise OSError(errno.ENOSPC, f"the spool would hold more than {self._max_bytes} bytes")
        path = _path(folder, ref)
        half = path.with_suffix(f".{os.getpid()}{HALF}")
        try:
            half.write_bytes(content)
            half.replace(path)
        except OSError:
            with suppress(OSError):
                half.unlink()
            raise

    @staticmethod
    def _used(folder: Path) -> int:
        total = 0
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):  # its run was faster
                total += entry.stat().st_size
        return total

    def sweep(self) -> None:
        """Forget outputs of jobs that ended elsewhere. Raises StoreUnavailable."""
        with self._lock:
            kept = list(self._in_memory)
        for ref in kept:
            if self._has_ended(ref):
                with self._lock:
                    self._in_memory.pop(ref, None)
        if self._folder is None or not self._folder.is_dir():
            return
        for path in list(self._folder.iterdir()):
            with suppress(FileNotFoundError):
                if path.suffix == SUFFIX:
                    self._sweep_one(path)
                elif path.suffix == HALF and time.time() - path.stat().st_mtime > TORN_S:
                    path.unlink()

    def _sweep_one(self, path: Path) -> None:
        with path.open("rb") as file:
            if not file.readline().startswith(MAGIC + b" "):
                return  # not ours: a newer form, or somebody else's folder
            header = file.readline()
        try:
            ref = json.loads(header)["ref"]
            has_ended = self._has_ended(ref)
        except (ValueError, KeyError, TypeError):
            has_ended = True  # damaged
        if has_ended:
            path.unlink()

    def _has_ended(self, ref: str) -> bool:
        try:
            return self._store.get(*keys.split_ref(ref)).is_final
        except (NotFound, Expired):
            return True


def _ref(claim: Claim) -> str:
    return keys.ref(claim.tenant, claim.id)


def _path(folder: Path, ref: str) -> Path:
    return folder / (hashlib.sha256(ref.encode()).hexdigest()[:40] + SUFFIX)


def _packed(ref: str, encoded: EncodedOutput) -> bytes:
    header = {
        "ref": ref,
        "data": encoded.data,
        "pictures": [_described(artifact) for artifact in encoded.pictures],
        "files": [_described(artifact) for artifact in encoded.files],
    }
    rest = b"\n".join([json.dumps(header).encode(), b"".join(artifact.body for artifact in encoded.artifacts)])
    return b"%s %s\n%s" % (MAGIC, hashlib.sha256(rest).hexdigest().encode(), rest)


def _described(artifact: Artifact) -> dict[str, Any]:
    entry = {"name": artifact.name, "content_type": artifact.content_type, "entry": artifact.entry}
    return {**entry, "bytes": len(artifact.body)}


def _read(path: Path, ref: str) -> EncodedOutput | None:
    """None where there is nothing good; what is not whole is deleted."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    first, _, rest = content.partition(b"\n")
    if first != b"%s %s" % (MAGIC, hashlib.sha256(rest).hexdigest().encode()):
        log.warning("output in the spool ignored: it is damaged", path=str(path))
        with suppress(OSError):
            path.unlink()
        return None
    line, _, bodies = rest.partition(b"\n")
    try:
        return _unpacked(json.loads(line), bodies, ref)
    except (ValueError, KeyError, TypeError) as error:
        log.warning("output in the spool ignored: it is of another version", path=str(path), error=repr(error))
        return None


def _unpacked(header: dict[str, Any], bodies: bytes, ref: str) -> EncodedOutput | None:
    if header["ref"] != ref:
        return None
    artifacts, at = [], 0
    for entry in (*header["pictures"], *header["files"]):
        body = bodies[at : at + entry["bytes"]]
        artifacts.append(Artifact(entry["name"], body, entry["content_type"], entry["entry"]))
        at += entry["bytes"]
    count = len(header["pictures"])
    return EncodedOutput(artifacts[:count], artifacts[count:], header["data"])
