"""Packages that bring kinds: a real one, and broken ones to write."""

from __future__ import annotations

from pathlib import Path

__all__ = ["TOY", "write_package"]

TOY = Path(__file__).parent / "outside"  # a folder for PYTHONPATH that holds the toy kind as installed


def write_package(folder: Path, name: str, source: str, *, kind: str, attribute: str = "KIND") -> Path:
    """A module `name` as if installed in `folder`, which declares the kind by an entry point; the folder."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[dreamqueue.kinds]\n{kind} = {name}:{attribute}\n")
    return folder
