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

from api.uploads.archive_rules import MAX_ENTRIES, MAX_MEMBERS, ArchiveLimits, Member, Members, check_name, refused
from shared.specs.archives import MAX_TABLE_BYTES, member_name

__all__ = ["Archive", "inspected_archive"]

MAX_DIRECTORY_BYTES = 4 * 2**20  # a zip's list of members, which is read as a whole
MAX_HEADER_BYTES = 64 * 1024  # one header of a tar, with its extended attributes
BLOCK = 512  # bytes of a tar's plain header
DIGITS = re.compile(rb"[0-9]{65}")
PIECE = 256 * 1024

_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, ValueError, KeyError, IndexError, zlib.error,
    struct.error, NotImplementedError, RuntimeError, UnicodeError, OverflowError,
)  # fmt: skip


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
            raise refused("not a readable archive", "a whole .zip or .tar, gzip allowed") from None
        raise


# --- the two forms -----------------------------------------------------------------------------------------------


def _inspect_zip(file: BinaryIO, limits: ArchiveLimits) -> int:
    if _directory_bytes(file) > MAX_DIRECTORY_BYTES:
        raise refused("the archive has too many members", f"{MAX_MEMBERS} pictures")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len(entries) > MAX_ENTRIES:
            raise refused("the archive has too many members", f"{MAX_MEMBERS} pictures")
        size = file.seek(0, io.SEEK_END)
        if sum(entry.compress_size for entry in entries) > size:
            raise refused("members of the archive lie over each other")
        members = Members(limits)
        for entry in entries:
            _check_entry(entry)
            if not entry.is_dir():
                members.add(Member(entry.filename, entry.file_size, entry.compress_size))
        if members.table:
            with archive.open(members.table_entry) as table:
                members.check_table(table.read(MAX_TABLE_BYTES + 1))
        return members.counted()


def _check_entry(entry: zipfile.ZipInfo) -> None:
    check_name(entry.orig_filename)
    name = entry.filename[:100]
    if entry.flag_bits & 0x41:
        raise refused(f"{name} is encrypted")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise refused(f"{name} is packed in an unusual way", "stored or deflated")
    kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == 3 else 0
    if kind and not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise refused(f"{name} is a link or a device", "files only")


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
    members = Members(limits)
    with tarfile.open(fileobj=_ShortReads(file), mode="r:") as archive:
        found: tarfile.TarInfo | None = None
        for number, entry in enumerate(_entries(archive)):
            if number >= MAX_ENTRIES:
                raise refused("the archive has too many members", f"{MAX_MEMBERS} pictures")
            check_name(entry.name)
            if entry.isdir():
                continue
            if not entry.isreg() or entry.sparse is not None:
                raise refused(f"{entry.name[:100]} is a link, a device or has holes", "files only")
            members.add(Member(entry.name, entry.size, entry.size))
            found = entry if member_name(entry.name) == members.table else found
    if found is not None:
        file.seek(found.offset_data)
        members.check_table(file.read(found.size))
    return members.counted()


def _entries(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """One after the other, without keeping them all: before Python 3.13 (`stream=True`) tarfile has no public way."""
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
            raise refused("a header of the archive is too long", f"{MAX_HEADER_BYTES} bytes")
        data = self._file.read(size)
        if b"GNU.sparse." in data or (data[257:262] == b"ustar" and data[156:157] == b"S"):
            raise refused("a file of the archive has holes", "plain files")
        if size > BLOCK and not _is_sound(data):  # longer names are refused, so it can only be attributes
            raise refused("a header of the archive is malformed or too long")
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
                    raise refused("the archive unpacks to too much", f"{limits.archive} bytes")
                plain.write(piece)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        plain.close()
        raise refused("not a readable archive", "a whole .zip or .tar, gzip allowed") from None
    except BaseException:
        plain.close()
        raise
    return plain
