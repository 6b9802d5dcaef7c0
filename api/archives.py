"""Archives of pictures, looked at before they are kept: their lists of members and their metadata table, nothing else.

Nothing is unpacked. What the worker will read later is bounded here: by number, by size, by what a member unpacks to.
Members that are no pictures are no matter of the door: each is an error of its own in the job's result.
"""

from __future__ import annotations

import gzip
import io
import re
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from api.problems import Rejected
from shared.archive_layout import MAX_TABLE_BYTES, TABLES, is_skipped, member_name, read_table
from shared.errors import InvalidInput

__all__ = ["MAX_MEMBERS", "Archive", "ArchiveLimits", "inspected_archive"]

MAX_MEMBERS = 10_000  # pictures
MAX_ENTRIES = 2 * MAX_MEMBERS  # with folders and what is skipped
MAX_RATIO = 100  # bytes that one byte may unpack to: pictures are compressed already
SMALL = 64 * 1024  # a member below this is no bomb, however well it packs
MAX_NAME_CHARS = 512
MAX_DIRECTORY_BYTES = 4 * 2**20  # a zip's list of members, which is read as a whole
MAX_HEADER_BYTES = 64 * 1024  # one header of a tar, with its extended attributes
BLOCK = 512  # bytes of a tar's plain header
DIGITS = re.compile(rb"[0-9]{65}")
PIECE = 256 * 1024
MAX_LISTED = 20  # rows named in one problem

_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, ValueError, KeyError, IndexError, zlib.error,
    struct.error, NotImplementedError, RuntimeError, UnicodeError, OverflowError,
)  # fmt: skip


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
class Archive:
    """One that may be kept. `file` is another one than was sent where that was a tar under gzip."""

    form: Literal["zip", "tar"]
    file: BinaryIO
    members: int

    @property
    def name(self) -> str:
        """As a spec names it, behind the job's id."""
        return f"archive.{self.form}"

    @property
    def content_type(self) -> str:
        """For the object store."""
        return "application/zip" if self.form == "zip" else "application/x-tar"


@dataclass(frozen=True)
class _Member:
    """`packed` is what it takes in the archive."""

    name: str
    bytes: int
    packed: int


def inspected_archive(file: BinaryIO, limits: ArchiveLimits) -> Archive:
    """Look at all that an archive says of itself. Raises InvalidInput (also Rejected, for a metadata table)."""
    file.seek(0)
    start = file.read(4)
    opened = _gunzipped(file, limits) if start[:2] == b"\x1f\x8b" else file
    try:
        opened.seek(0)
        if start in (b"PK\x03\x04", b"PK\x05\x06"):
            return Archive("zip", opened, _inspect_zip(opened, limits))
        return Archive("tar", opened, _inspect_tar(opened, limits))
    except BaseException as error:
        if opened is not file:
            opened.close()
        if isinstance(error, _BROKEN):
            raise _refused("not a readable archive", "a whole .zip or .tar, gzip allowed") from None
        raise


def _refused(message: str, limit: str = "") -> InvalidInput:
    return InvalidInput(message, field="archive", limit=limit)


# --- the two forms -----------------------------------------------------------------------------------------------


def _inspect_zip(file: BinaryIO, limits: ArchiveLimits) -> int:
    if _directory_bytes(file) > MAX_DIRECTORY_BYTES:
        raise _refused("the archive has too many members", f"{MAX_MEMBERS} pictures")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len(entries) > MAX_ENTRIES:
            raise _refused("the archive has too many members", f"{MAX_MEMBERS} pictures")
        size = file.seek(0, io.SEEK_END)
        if sum(entry.compress_size for entry in entries) > size:
            raise _refused("members of the archive lie over each other")
        members = _Members(limits)
        for entry in entries:
            _check_entry(entry)
            if not entry.is_dir():
                members.add(_Member(entry.filename, entry.file_size, entry.compress_size))
        if members.table:
            with archive.open(members.table_entry) as table:
                members.check_table(table.read(MAX_TABLE_BYTES + 1))
        return members.counted()


def _check_entry(entry: zipfile.ZipInfo) -> None:
    _check_name(entry.orig_filename)
    name = entry.filename[:100]
    if entry.flag_bits & 0x41:
        raise _refused(f"{name} is encrypted")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refused(f"{name} is packed in an unusual way", "stored or deflated")
    kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == 3 else 0
    if kind and not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise _refused(f"{name} is a link or a device", "files only")


def _directory_bytes(file: BinaryIO) -> int:
    """How long the list of members is, as zipfile will read it: that of the zip64 record, where there is one."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 66_000))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < 22:
        raise zipfile.BadZipFile
    (found,) = struct.unpack_from("<12xL", tail, at)
    if at >= 76 and tail[at - 20 : at - 16] == b"PK\x06\x07":
        (found,) = struct.unpack_from("<40xQ", tail, at - 76)
    return int(found)


def _inspect_tar(file: BinaryIO, limits: ArchiveLimits) -> int:
    members = _Members(limits)
    with tarfile.open(fileobj=_ShortReads(file), mode="r:") as archive:
        found: tarfile.TarInfo | None = None
        for number, entry in enumerate(_entries(archive)):
            if number >= MAX_ENTRIES:
                raise _refused("the archive has too many members", f"{MAX_MEMBERS} pictures")
            _check_name(entry.name)
            if entry.isdir():
                continue
            if not entry.isreg() or entry.sparse is not None:
                raise _refused(f"{entry.name[:100]} is a link, a device or has holes", "files only")
            members.add(_Member(entry.name, entry.size, entry.size))
            found = entry if member_name(entry.name) == members.table else found
    if found is not None:
        file.seek(found.offset_data)
        members.check_table(file.read(found.size))
    return members.counted()


def _entries(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """One after the other, without keeping them all."""
    while (entry := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]
        yield entry


class _ShortReads(io.RawIOBase):
    """What tarfile reads of a tar whose members it only lists: headers. Those that would cost it, or the worker's,
    time or memory out of all proportion are refused before it sees them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int | None = -1) -> bytes:
        """Raises InvalidInput."""
        if size is None or not 0 <= size <= MAX_HEADER_BYTES:
            raise _refused("a header of the archive is too long", f"{MAX_HEADER_BYTES} bytes")
        data = self._file.read(size)
        if b"GNU.sparse." in data or (data[257:262] == b"ustar" and data[156:157] == b"S"):
            raise _refused("a file of the archive has holes", "plain files")
        if size > BLOCK and not _is_sound(data):  # longer names are refused, so it can only be attributes
            raise _refused("a header of the archive is malformed or too long")
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _is_sound(attributes: bytes) -> bool:
    """Whether pax records follow each other as they should: tarfile searches malformed ones in quadratic time."""
    at = 0
    while at < len(attributes) and attributes[at]:
        space = attributes.find(b" ", at, at + 8)
        if space < 0 or not attributes[at:space].isdigit():
            return False
        end = at + int(attributes[at:space])
        if end <= space or b"=" not in attributes[space:end] or attributes[end - 1 : end] != b"\n":
            return False
        at = end
    return not DIGITS.search(attributes)


def _gunzipped(file: BinaryIO, limits: ArchiveLimits) -> BinaryIO:
    """The tar inside, in a file of its own; never more than may be kept."""
    plain: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
    file.seek(0)
    written = 0
    try:
        with gzip.GzipFile(fileobj=file) as packed:
            while piece := packed.read(PIECE):
                written += len(piece)
                if written > limits.archive:
                    raise _refused("the archive unpacks to too much", f"{limits.archive} bytes")
                plain.write(piece)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        plain.close()
        raise _refused("not a readable archive", "a whole .zip or .tar, gzip allowed") from None
    except BaseException:
        plain.close()
        raise
    return plain


# --- the rules ---------------------------------------------------------------------------------------------------


class _Members:
    """The members so far, each checked as it comes."""

    def __init__(self, limits: ArchiveLimits) -> None:
        self._limits = limits
        self._bytes = 0
        self._names: set[str] = set()
        self.count = 0  # pictures
        self.table = ""  # the metadata table's name
        self.table_entry = ""  # as the archive spells it

    def add(self, member: _Member) -> None:
        """Raises InvalidInput."""
        name = member_name(member.name)
        if name in self._names:
            raise _refused(f"{name[:100]} is in the archive twice")
        self._names.add(name)
        if name in TABLES:
            self._check_size(name, member.bytes, MAX_TABLE_BYTES)
            if self.table:
                raise _refused(f"the archive has both {self.table} and {name}", "one metadata table")
            self.table, self.table_entry = name, member.name
            return
        self._check_size(name, member.bytes, self._limits.member)
        if member.bytes > max(SMALL, MAX_RATIO * member.packed):
            raise _refused(f"{name[:100]} unpacks to far more than it takes", f"{MAX_RATIO} times")
        if is_skipped(name):
            return
        self.count += 1
        if self.count > MAX_MEMBERS:
            raise _refused("the archive has too many members", f"{MAX_MEMBERS} pictures")

    def _check_size(self, name: str, size: int, most: int) -> None:
        if not 0 <= size <= most:
            raise _refused(f"{name[:100]} has {size} bytes", f"{most} bytes")
        self._bytes += size
        if self._bytes > self._limits.unpacked:
            raise _refused("the archive unpacks to too much", f"{self._limits.unpacked} bytes")

    def counted(self) -> int:
        """How many pictures there may be. Raises InvalidInput where there is none."""
        if not self.count:
            raise _refused("the archive holds no files", "1 picture at least")
        return self.count

    def check_table(self, body: bytes) -> None:
        """Every row of the metadata table. Raises Rejected, which names file and field."""
        if len(body) > MAX_TABLE_BYTES:
            raise _refused(f"{self.table} is too long", f"{MAX_TABLE_BYTES} bytes")
        rows, errors = read_table(self.table, body)
        found = [
            {"field": ".".join(part for part in (self.table, error.file, error.field) if part)[:200],
             "message": error.message[:300], "limit": ""}
            for error in errors[:MAX_LISTED]
        ]  # fmt: skip
        found += [
            {"field": f"{self.table}.{name}"[:200], "message": "the archive has no such file", "limit": ""}
            for name in rows
            if name not in self._names
        ][: MAX_LISTED - len(found)]
        if found:
            raise Rejected(found)


def _check_name(raw: str) -> None:
    """No name leads out of a folder that it is unpacked to, on any system; nothing hides in it."""
    shown = re.sub(r"[^ -~]", "?", raw)[:100]
    if not raw or len(raw) > MAX_NAME_CHARS:
        raise _refused(f"a name is empty or too long: {shown}", f"{MAX_NAME_CHARS} characters")
    if raw.startswith("/") or re.match(r"[A-Za-z]:", raw) or "\\" in raw or ".." in raw.split("/"):
        raise _refused(f"the name {shown} leads out of the archive", "relative names, with /")
    if any(ord(char) < 32 or ord(char) == 127 or "\ud800" <= char <= "\udfff" for char in raw):
        raise _refused(f"the name {shown} holds what no name should", "UTF-8 without control characters")
