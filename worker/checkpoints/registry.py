"""The registry file: which models there are, what they are made of, and the digests that their files must have.

`registry.json`: {"models": [entry, ...]}; `folder` and `tokenizer` are relative to the registry's own folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from worker.checkpoints.errors import BadRegistry, DigestMismatch, UnknownModel

FAMILIES = ("clip", "vqgan", "dalle", "unclip")
NO_POOL = "none"
DTYPES = ("float16", "bfloat16", "float32")
EMBEDDED = Path(__file__).resolve().parent.parent / "weights" / "registry.json"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model. Paths are absolute once loaded."""

    id: str
    family: str  # one of FAMILIES: picks the loader
    folder: Path
    config: str  # file name of its configuration, JSON
    weights: str  # file name of its weights, safetensors
    sha256: Mapping[str, str]  # of every file the model needs, by the name it has in `config`, `weights`, `tokenizer`
    dtype: str  # of the weights on disk
    params: int
    source: str  # where the weights come from
    licence: str
    pool: str  # which workers serve it; "none": nobody does, it is there to judge what the others draw
    tokenizer: Path | None = None  # clip and dalle: the caption tokenizer
    vqgan: str | None = None  # dalle, unclip: id of the VQGAN that decodes its codes
    # clip: slope, offset and mean background of a search's score, by what is asked with: `text`, `image`
    # (`dreamqueue train calibrate`)
    calibration: Mapping[str, tuple[float, float, float]] | None = None
    clip: str | None = None  # id of the CLIP that ranks or steers by default; unclip: whose vectors it knows

    @property
    def is_served(self) -> bool:
        """Whether jobs may use it."""
        return self.pool != NO_POOL

    def files(self) -> dict[str, Path]:
        """Every file of the model, by its name in `sha256`."""
        paths = [self.folder / self.config, self.folder / self.weights]
        return {path.name: path for path in [*paths, *([self.tokenizer] if self.tokenizer else [])]}

    def verify(self) -> None:
        """Compare every file with its digest; DigestMismatch names the first that differs."""
        for name, path in self.files().items():
            wanted, found = self.sha256.get(name), digest(path)
            if wanted != found:
                raise DigestMismatch(f"model {self.id}: {path} has sha256 {found}, the registry says {wanted}")


@dataclass(frozen=True, slots=True)
class ModelRegistry:
    """All entries by id."""

    entries: Mapping[str, ModelEntry]

    @classmethod
    def load(cls, path: Path = EMBEDDED) -> ModelRegistry:
        """Read a registry file. Nothing of the models is read yet."""
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))["models"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadRegistry(f"no model registry at {path}: {error}") from error
        entries = [_entry(row, path.resolve().parent) for row in rows]
        if len({entry.id for entry in entries}) != len(entries):
            raise BadRegistry(f"{path} names a model twice")
        return cls({entry.id: entry for entry in entries})

    def get(self, model_id: str) -> ModelEntry:
        """The entry of that id, or UnknownModel."""
        try:
            return self.entries[model_id]
        except KeyError:
            known = ", ".join(sorted(self.entries))
            raise UnknownModel(f"no model {model_id!r}; there are: {known}") from None

    def of_family(self, family: str) -> list[ModelEntry]:
        """Entries of one family in the file's order; the first is the default."""
        return [entry for entry in self.entries.values() if entry.family == family]


def digest(path: Path) -> str:
    """sha256 of a file as hex; BadRegistry if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadRegistry(f"cannot read {path}: {error}") from error


def _entry(row: Any, base: Path) -> ModelEntry:
    if not isinstance(row, dict):
        raise BadRegistry(f"a registry entry is no object: {row!r}")
    names = {field.name for field in fields(ModelEntry)}
    if unknown := set(row) - names:
        raise BadRegistry(f"registry entry {row.get('id')!r} has unknown fields {sorted(unknown)}")
    values = dict(row)
    try:
        values["folder"] = base / values["folder"]
        if values.get("tokenizer"):
            values["tokenizer"] = base / values["tokenizer"]
        entry = ModelEntry(**values)
    except (KeyError, TypeError) as error:
        raise BadRegistry(f"registry entry {row.get('id')!r}: {error}") from error
    if entry.family not in FAMILIES or entry.dtype not in DTYPES:
        raise BadRegistry(f"registry entry {entry.id!r}: family {entry.family!r}, dtype {entry.dtype!r}")
    return entry
