"""Archives as people send them, and as they should not."""

from __future__ import annotations

import io
import tarfile
import zipfile

__all__ = ["Members", "tarred", "zipped"]

Members = dict[str, bytes]


def zipped(members: Members, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A .zip."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return file.getvalue()


def tarred(members: Members, *special: tarfile.TarInfo) -> bytes:
    """A .tar, with entries that are no files behind the members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, body in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
        for entry in special:
            archive.addfile(entry)
    return file.getvalue()
