"""Pictures with captions as people keep them: a table, a folder with sidecar files, webdataset shards.

Nothing is unpacked to disk. What is wrong with one picture is told beside it (`Sample.fault`), so that the caller
decides whether to stop; what is wrong with the whole raises DataError.
"""

from __future__ import annotations

import csv
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from worker.training.errors import DataError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
TABLES = {".csv": ",", ".tsv": "\t"}
SHARDS = (".tar", ".tar.gz", ".tgz")
MAX_FILE_BYTES = 64 * 2**20  # of one picture, still packed; a larger one is refused unread
MAX_CAPTION = 1_000  # characters


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a table's rows, or a shard's JSON members, say what."""

    image: str = "image"
    caption: str = "caption"
    keywords: str = "keywords"


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture, not decoded yet, and its words."""

    name: str  # its own within the set, the same at every import: decides whether it is held out
    where: str  # for messages: file and line or sample
    data: bytes = b""
    captions: tuple[str, ...] = ()  # at least one unless there is a fault
    keywords: tuple[str, ...] = ()
    fault: str = ""


def read_samples(path: Path, columns: Columns) -> Iterator[Sample]:
    """All samples at `path`, in an order that does not change: a .csv or .tsv, a shard, or a folder."""
    if path.is_file() and path.suffix.lower() in TABLES:
        return _of_table(path, columns)
    if path.is_file() and path.name.lower().endswith(SHARDS):
        return _of_shard(path, columns)
    if not path.is_dir():
        raise DataError(f"{path} is no folder, .csv, .tsv or .tar of pictures")
    shards = sorted(item for item in path.iterdir() if item.name.lower().endswith(SHARDS))
    if shards:
        return (sample for shard in shards for sample in _of_shard(shard, columns))
    return _of_folder(path)


def _of_table(path: Path, columns: Columns) -> Iterator[Sample]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, delimiter=TABLES[path.suffix.lower()])
            missing = {columns.image, columns.caption} - set(table.fieldnames or ())
            if missing:
                known = ", ".join(table.fieldnames or ()) or "none"
                raise DataError(f"{path} has no column {', '.join(sorted(missing))}; there are: {known}")
            for row in table:
                image = (row[columns.image] or "").strip()
                where = f"{path} line {table.line_num}"
                words = [row[columns.caption] or ""]
                yield _sample(image, where, path.parent / image, words, row.get(columns.keywords))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _of_folder(path: Path) -> Iterator[Sample]:
    for image in sorted(item for item in path.rglob("*") if item.suffix.lower() in ENDINGS):
        sidecar = image.with_suffix(".txt")
        name = image.relative_to(path).as_posix()
        try:
            lines = sidecar.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            yield Sample(name, str(image), fault=f"cannot read its caption {sidecar.name}: {error}")
            continue
        yield _sample(name, str(image), image, lines, None)


def _of_shard(path: Path, columns: Columns) -> Iterator[Sample]:
    """Members that follow each other and agree up to the first dot of their file names are one sample."""
    key, parts = "", dict[str, bytes | str]()
    try:
        with tarfile.open(path, "r|*") as file:
            for member in file:
                if not member.isfile():
                    continue
                place = PurePosixPath(member.name)
                stem, _, ending = place.name.partition(".")
                here = (place.parent / stem).as_posix()
                if here != key:
                    yield from _packed(path, key, parts, columns)
                    key, parts = here, {}
                content = file.extractfile(member) if member.size <= MAX_FILE_BYTES else None
                parts["." + ending.lower()] = content.read() if content else f"{member.name} has {member.size} bytes"
            yield from _packed(path, key, parts, columns)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _packed(path: Path, key: str, parts: Mapping[str, bytes | str], columns: Columns) -> Iterator[Sample]:
    """The sample of one key; none for a key without a picture, such as a shard's own notes."""
    image = next((parts[ending] for ending in ENDINGS if ending in parts), None)
    if image is None:
        return
    where = f"{path} sample {key}"
    if isinstance(image, str):
        yield Sample(key, where, fault=f"{image}, at most {MAX_FILE_BYTES} are read")
        return
    try:
        values = json.loads(parts.get(".json", b"{}"))
        text = parts.get(".txt")
        words = text.decode("utf-8-sig").splitlines() if isinstance(text, bytes) else _texts(values[columns.caption])
        yield _sample(key, where, image, words, values.get(columns.keywords))
    except (ValueError, KeyError, AttributeError, TypeError):
        yield Sample(key, where, fault=f"no .txt and no .json with a {columns.caption!r} beside the picture")


def _sample(name: str, where: str, image: Path | bytes, captions: Iterable[str], keywords: Any) -> Sample:
    """A sample, or why it is none."""
    words = tuple(dict.fromkeys(filter(None, (" ".join(line.lower().split()) for line in captions))))
    if not words:
        return Sample(name, where, fault="the caption is empty")
    longest = max(map(len, words))
    if longest > MAX_CAPTION:
        return Sample(name, where, fault=f"the caption has {longest} characters, at most {MAX_CAPTION} are allowed")
    try:
        data = _read(image) if isinstance(image, Path) else image
    except (OSError, ValueError) as error:
        return Sample(name, where, fault=f"cannot read the picture: {error}")
    tags = (" ".join(tag.lower().split()) for tag in _list(keywords))
    return Sample(name, where, data, words, tuple(dict.fromkeys(filter(None, tags))))


def _read(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{path} has {size} bytes, at most {MAX_FILE_BYTES} are read")
    return path.read_bytes()


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _list(value: Any) -> list[str]:
    """A JSON list, or a table's cell of words set apart by , ; or |."""
    if isinstance(value, str):
        return re.split(r"[,;|]", value)
    return _texts(value) if isinstance(value, list) else []
