"""What is known of a collection. Pure: no Redis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.specs.filters import Column, FieldType

__all__ = ["Collection"]


@dataclass(frozen=True)
class Collection:
    """A collection as stored. `id` is another one after it was deleted and made again."""

    tenant: str
    name: str
    id: str
    table: str  # where its vectors lie
    model: str  # the CLIP that sees its pictures
    fingerprint: str  # sha256 of that model's weights; empty until the first picture is in
    width: int  # of a vector; 0 until then
    rows: int
    bytes: int
    version: int  # of the table, when `rows` and `bytes` were taken
    changes: int  # grows with each write; caches follow it
    created_at_ms: int
    changed_at_ms: int
    description: str = ""
    next_table: str = ""  # where a re-embedding puts its vectors
    columns: Mapping[str, Column] = field(default_factory=dict)  # by metadata field

    @property
    def fields(self) -> dict[str, FieldType]:
        """Metadata fields and their types."""
        return {name: column.type for name, column in self.columns.items()}
