"""Where an index job's pictures come from: uploads, finished jobs, addresses, an archive."""

from __future__ import annotations

import functools
import hashlib
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import IO, Any

from PIL import Image

from shared.errors import InvalidInput, UnreadableImage
from shared.records.job import JobRecord
from shared.specs.archives import MAX_TABLE_BYTES, TABLES, is_skipped, member_name, read_table
from shared.specs.clip import IndexItem
from shared.storage import ObjectStore
from worker.engines.collection_access import Loaded
from worker.vectors.index import Metadata

__all__ = ["Archive", "Picture", "by_job"]

PROMPT_BYTES = 3_000  # of a prompt, kept with its picture
EXACT = 2**53  # integers below it are exact as floats
NO_ARCHIVE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    struct.error,
    OSError,
    ValueError,
    LookupError,
    NotImplementedError,
    RuntimeError,
)


@dataclass(frozen=True)
class Picture:
    """A source whose bytes `read` fetches, and `decode` reads; `called` is what their errors name."""

    item: str
    called: str
    read: Callable[[], bytes]
    decode: Callable[[bytes, str], Image.Image]
    metadata: Metadata = field(default_factory=dict)
    is_kept: bool = False  # whether it lies under its id already

    def load(self) -> Loaded:
        """Fetch and decode it, and name it by the hash of its bytes."""
        body = self.read()
        image = self.decode(body, self.called)
        return Loaded(f"img_{hashlib.sha256(body).hexdigest()}", image, None if self.is_kept else body)


def by_job(record: JobRecord) -> list[IndexItem]:
    """Every picture that a job made, with what is known of it as metadata."""
    models = (record.result or {}).get("models") or []
    model = next((str(model["id"]) for model in models if isinstance(model, dict) and "id" in model), "")
    return [
        IndexItem(image=f"{record.id}/{image['name']}", metadata=_metadata(record, image, model))
        for image in record.made("images")
    ]


def _cut(text: str) -> str:
    """To what metadata may hold, beside the rest of it."""
    return text.encode()[:PROMPT_BYTES].decode(errors="ignore")[:1_000]


def _metadata(record: JobRecord, image: dict[str, Any], model: str) -> dict[str, Any]:
    known = {
        "prompt": _cut(str(image.get("prompt") or "")),
        "kind": record.kind,
        "model": model,
        "job": record.id,
        "seed": image["seed"] if image.get("seed") is not None and image["seed"] <= EXACT else None,
        "index": image.get("index"),
        "score": image.get("score"),
    }
    return {
        name: float(value) if isinstance(value, int) else value for name, value in known.items() if value is not None
    }


class Archive:
    """A zip or tar file, brought here as it is and read member by member. Thread-safe; use as a context manager."""

    def __init__(
        self, objects: ObjectStore, key: str, max_bytes: int, check: Callable[[], None] = lambda: None
    ) -> None:
        """max_bytes: of one picture, unpacked. `check` is called while the archive comes, and may raise. The key's
        ending says what the API found and checked it to be; the bytes are not asked again, since they may be both."""
        self._file = TemporaryFile()  # noqa: SIM115 (open as long as this is; it has no name, so it goes with the process)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()  # both libraries read through one file handle
        try:
            _, pieces = objects.stream(key)
            for piece in pieces:
                check()
                self._file.write(piece)
            self._file.seek(0)
            with _translated():
                self._open = _Zip(self._file) if key.endswith(".zip") else _Tar(self._file)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the copy."""
        self._open.close()
        self._file.close()

    def pictures(self, decode: Callable[[bytes, str], Image.Image]) -> Sequence[Picture]:
        """Every member that may be a picture, by name; `decode` is told which. Raises InvalidInput."""
        names = sorted(self._open.names)
        tables = [name for name in names if name in TABLES]
        metadata: dict[str, dict[str, Any]] = {}
        for table in tables[:1]:
            metadata, errors = read_table(table, self._read(table, MAX_TABLE_BYTES))
            if errors:
                raise InvalidInput(f"{table}: {errors[0].file} {errors[0].message}", field="archive")
        return [
            Picture(name, name, functools.partial(self._read, name, self._max_bytes), decode, metadata.get(name, {}))
            for name in names
            if name not in TABLES and not is_skipped(name)
        ]

    def _read(self, name: str, limit: int) -> bytes:
        with self._lock:
            try:
                with self._open.member(name) as file:
                    body = file.read(limit + 1)
            except NO_ARCHIVE as error:
                raise UnreadableImage(f"{name} cannot be unpacked: {error}") from None
        if len(body) > limit:
            raise UnreadableImage(f"{name} has more than {limit} bytes")
        return body


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except NO_ARCHIVE as error:
        raise InvalidInput(f"the archive cannot be read: {error}", field="archive") from None


class _Zip:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = zipfile.ZipFile(file)
        self.names = {member_name(info.filename): info for info in self._file.infolist() if not info.is_dir()}

    def member(self, name: str) -> IO[bytes]:
        """Its bytes, unpacked as they are read."""
        return self._file.open(self.names[name])

    def close(self) -> None:
        self._file.close()


class _Tar:
    """Never under gzip: the door takes that off, since members are read in any order."""

    def __init__(self, file: IO[bytes]) -> None:
        file.seek(0)
        self._file = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (open as long as this is)
        self.names = {member_name(info.name): info for info in self._file if info.isfile()}

    def member(self, name: str) -> IO[bytes]:
        """Its bytes."""
        file = self._file.extractfile(self.names[name])
        if file is None:
            raise tarfile.TarError(f"{name} is no file")
        return file

    def close(self) -> None:
        self._file.close()
