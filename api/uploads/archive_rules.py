"""What an archive of pictures may hold, in whatever form: names, sizes, numbers, a metadata table that can be read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from api.http.problems import Rejected
from shared.errors import InvalidInput
from shared.specs.archives import MAX_TABLE_BYTES, TABLES, is_skipped, member_name, read_table

__all__ = ["MAX_ENTRIES", "MAX_MEMBERS", "ArchiveLimits", "Member", "Members", "check_name", "refused"]

MAX_MEMBERS = 10_000  # pictures
MAX_ENTRIES = 2 * MAX_MEMBERS  # with folders and what is skipped
MAX_RATIO = 100  # bytes that one byte may unpack to: pictures are compressed already
SMALL = 64 * 1024  # a member below this is no bomb, however well it packs
MAX_NAME_CHARS = 512
MAX_LISTED = 20  # rows named in one problem


@dataclass(frozen=True)
class ArchiveLimits:
    """Bytes."""

    archive: int  # of the archive, as a tar without gzip
    member: int  # of one picture

    @property
    def unpacked(self) -> int:
        """Of all members together."""
        return 2 * self.archive


@dataclass(frozen=True)
class Member:
    """A file in an archive. `packed` is what it takes in the archive."""

    name: str
    bytes: int
    packed: int


def refused(message: str, limit: str = "") -> InvalidInput:
    """To be raised."""
    return InvalidInput(message, field="archive", limit=limit)


class Members:
    """The members so far, each checked as it comes."""

    def __init__(self, limits: ArchiveLimits) -> None:
        self._limits = limits
        self._bytes = 0
        self._names: set[str] = set()
        self.count = 0  # pictures
        self.table = ""  # the metadata table's name
        self.table_entry = ""  # as the archive spells it

    def add(self, member: Member) -> None:
        """Raises InvalidInput."""
        name = member_name(member.name)
        if name in self._names:
            raise refused(f"{name[:100]} is in the archive twice")
        self._names.add(name)
        if name in TABLES:
            self._check_size(name, member.bytes, MAX_TABLE_BYTES)
            if self.table:
                raise refused(f"the archive has both {self.table} and {name}", "one metadata table")
            self.table, self.table_entry = name, member.name
            return
        self._check_size(name, member.bytes, self._limits.member)
        if member.bytes > max(SMALL, MAX_RATIO * member.packed):
            raise refused(f"{name[:100]} unpacks to far more than it takes", f"{MAX_RATIO} times")
        if is_skipped(name):
            return
        self.count += 1
        if self.count > MAX_MEMBERS:
            raise refused("the archive has too many members", f"{MAX_MEMBERS} pictures")

    def _check_size(self, name: str, size: int, max_bytes: int) -> None:
        if not 0 <= size <= max_bytes:
            raise refused(f"{name[:100]} has {size} bytes", f"{max_bytes} bytes")
        self._bytes += size
        if self._bytes > self._limits.unpacked:
            raise refused("the archive unpacks to too much", f"{self._limits.unpacked} bytes")

    def counted(self) -> int:
        """How many pictures there may be. Raises InvalidInput where there is none."""
        if not self.count:
            raise refused("the archive holds no files", "1 picture at least")
        return self.count

    def check_table(self, body: bytes) -> None:
        """Every row of the metadata table. Raises Rejected, which names file and field."""
        if len(body) > MAX_TABLE_BYTES:
            raise refused(f"{self.table} is too long", f"{MAX_TABLE_BYTES} bytes")
        rows, errors = read_table(self.table, body)
        found = [
            {
                "field": ".".join(part for part in (self.table, error.file, error.field) if part)[:200],
                "message": error.message[:300],
                "limit": "",
            }
            for error in errors[:MAX_LISTED]
        ]
        found += [
            {"field": f"{self.table}.{name}"[:200], "message": "the archive has no such file", "limit": ""}
            for name in rows
            if name not in self._names
        ][: MAX_LISTED - len(found)]
        if found:
            raise Rejected(found)


def check_name(raw: str) -> None:
    """No name leads out of a folder that it is unpacked to, on any system; nothing hides in it."""
    shown = re.sub(r"[^ -~]", "?", raw)[:100]
    if not raw or len(raw) > MAX_NAME_CHARS:
        raise refused(f"a name is empty or too long: {shown}", f"{MAX_NAME_CHARS} characters")
    if raw.startswith("/") or re.match(r"[A-Za-z]:", raw) or "\\" in raw or ".." in raw.split("/"):
        raise refused(f"the name {shown} leads out of the archive", "relative names, with /")
    if any(ord(char) < 32 or ord(char) == 127 or "\ud800" <= char <= "\udfff" for char in raw):
        raise refused(f"the name {shown} holds what no name should", "UTF-8 without control characters")
