"""Folders of pictures as archives that the server takes: of bounded size, each with its share of the metadata."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.client.job import Job

__all__ = ["MAX_PICTURES", "MAX_PICTURE_BYTES", "SUFFIXES", "Pack", "Tally", "packs_of", "pictures_in"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
MAX_PICTURES = 2_000  # of one archive; the server takes 10,000, but progress that is seen early is worth more
MAX_PACK_BYTES = 64 * 2**20  # below what any sensible server takes (DREAMQUEUE_ARCHIVE_MAX_BYTES, 256 MiB by default)
MAX_PICTURE_BYTES = 10 * 2**20  # what the server takes of one picture (DREAMQUEUE_IMAGE_MAX_BYTES) by default
MAX_VALUE = 1_000  # characters of a metadata value
MAX_NAME = 400  # characters of a name in an archive
DRIVE = re.compile(r"[A-Za-z]:")
Table = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Pack:
    """An archive on this disk; gone once the next one is asked for."""

    path: Path
    pictures: int


@dataclass
class Tally:
    """What index jobs did with what they were sent."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: int = 0
    errors: list[dict[str, Any]] | None = None

    def refuse(self, name: str, code: str, message: str) -> None:
        """Count a picture that was not even sent."""
        self.failed += 1
        self.errors = [*(self.errors or []), {"item": name, "image": None, "code": code, "message": message}]

    def add(self, job: Job) -> None:
        """Count an ended job in."""
        result = job.result or {}
        for name in ("added", "updated", "unchanged", "failed"):
            setattr(self, name, getattr(self, name) + int(result.get(name, 0)))
        self.errors = [*(self.errors or []), *(result.get("errors") or [])]

    @property
    def seen(self) -> int:
        """Pictures that jobs have answered for."""
        return self.added + self.updated + self.unchanged + self.failed


def pictures_in(folder: Path) -> list[str]:
    """PNG, JPEG and WebP files in a folder and those within, by their paths in it. What starts with a dot is left out,
    and folders that are links are not gone into."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        within = Path(place).relative_to(folder)
        found += [
            (within / name).as_posix()
            for name in sorted(files)
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES and Path(place, name).is_file()
        ]
    return found


def packs_of(
    folder: Path,
    names: Sequence[str],
    table: Table,
    work: Path,
    *,
    max_pictures: int = MAX_PICTURES,
    max_bytes: int = MAX_PACK_BYTES,
) -> Iterator[Pack]:
    """The pictures `names` of a folder as zip files in the folder `work`, one at a time.

    Each picture keeps its row of `table` and gets two fields where the row has none of that name: `path` in the folder,
    and `folder`, where it lies in one within.
    """
    for number, part in enumerate(_parts(folder, names, max_pictures, max_bytes)):
        path = work / f"pack-{number}.zip"
        rows = []
        taken: set[str] = set()
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
            for name in part:
                member = _member_name(name, taken)
                archive.write(folder / name, member)
                rows.append({"file": member, **_places(member), **table.get(name, {})})
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            archive.writestr("metadata.jsonl", lines, zipfile.ZIP_DEFLATED)
        yield Pack(path, len(part))
        path.unlink()


def _parts(folder: Path, names: Iterable[str], max_pictures: int, max_bytes: int) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for name in names:
        its_size = (folder / name).stat().st_size
        if part and (len(part) == max_pictures or size + its_size > max_bytes):
            yield part
            part, size = [], 0
        part.append(name)
        size += its_size
    if part:
        yield part


def _places(member: str) -> dict[str, str]:
    folder, _, _ = member.rpartition("/")
    return {"path": member[-MAX_VALUE:], **({"folder": folder[-MAX_VALUE:]} if folder else {})}


def _member_name(name: str, taken: set[str]) -> str:
    """A file's name as every system and the server can read it: text, no drive, no control characters, not too long."""
    text = os.fsencode(name).decode("utf-8", "replace").replace("\\", "_")
    text = "".join(character if character.isprintable() else "�" for character in text)
    text = text[-MAX_NAME:].lstrip("/")
    if DRIVE.match(text) or text in taken:
        text = f"{len(taken)}/{text}"
    taken.add(text)
    return text
