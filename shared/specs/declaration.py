"""How a kind is declared: in one line of the table (shared/specs/kinds.py), or in another package."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import Field, TypeAdapter

from shared.specs.probe import ProbeSpec
from shared.specs.types import Spec

__all__ = ["ALL_DEFAULT", "BadKind", "Kind", "check_kind"]

ALL_DEFAULT = "default"  # in the setting KINDS: every kind that belongs to a worker unless its operator chooses
NAME = re.compile(r"^[a-z][a-z0-9_]{0,31}$")  # also a metric's label, and a part of comma-separated settings
ENGINE = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")


class BadKind(ValueError):
    """A declaration that does not hold."""


@dataclass(frozen=True)
class Kind:
    """One kind of job. The API imports no engine; a worker imports those of the kinds that it serves."""

    spec: type[Spec]
    engine: str  # `package.module:function`, called by a worker with its EngineParts; kinds may share one
    example: Mapping[str, Any]  # an input, for the documents
    makes_pictures: bool = False  # from a seed: `seed` is drawn, `collect` is as the server is set, where left out
    takes_collections: bool = False  # a worker that serves it opens the vector index
    is_part_of_collection: bool = False  # there is a call whose path names its collection
    is_default: bool = True  # whether `default` in the setting KINDS means it, too
    is_for_operators: bool = False  # whether only a key with the scope `admin` may ask for it
    package: str = ""  # the one that brought it; empty for ours

    @property
    def name(self) -> str:
        """As jobs name it."""
        return str(self.spec.model_fields["kind"].default)


def check_kind(kind: object) -> Kind:
    """A declaration of another package, before anything relies on it. Raises BadKind, or what the spec raises."""
    if not isinstance(kind, Kind):
        raise BadKind(f"it is no shared.specs.declaration.Kind but {type(kind).__name__}")
    if not (isinstance(kind.spec, type) and issubclass(kind.spec, Spec)):
        raise BadKind("its spec is no subclass of shared.specs.types.Spec")
    field = kind.spec.model_fields["kind"]
    if get_args(field.annotation) != (kind.name,):
        raise BadKind(f"its spec needs a field `kind: Literal[NAME] = NAME`, has {field.annotation!r}")
    if not NAME.match(kind.name) or kind.name == ALL_DEFAULT:
        raise BadKind(f"{kind.name!r} can be no kind's name")
    if not ENGINE.match(kind.engine):
        raise BadKind(f"its engine is not named as package.module:function but {kind.engine!r}")
    json.dumps(dict(kind.example))
    both: Any = Annotated[ProbeSpec | kind.spec, Field(discriminator="kind")]
    union: TypeAdapter[Spec] = TypeAdapter(both)
    union.validate_python({**kind.example, "kind": kind.name})
    union.json_schema()
    return kind
