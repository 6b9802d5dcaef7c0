"""Reading what is stored. A record may be older or newer than this code: what it does not know is ignored, what is
missing or makes no sense takes the field's default and is noted by name. Pure: no Redis.

Writers never rely on this. Data of a version that changes the meaning of a field needs a field of another name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from shared.errors import UnreadableRecord

__all__ = ["FieldReader", "record_from_json"]

T = TypeVar("T")


class FieldReader:
    """Reads the text fields of one stored hash. `unreadable` holds the names of those that took their default because
    their text makes no sense; a field that is absent or empty is not one of them."""

    def __init__(self, raw: Mapping[str, str]) -> None:
        self._raw = raw
        self.unreadable: list[str] = []

    @property
    def names(self) -> list[str]:
        """Of all fields there are."""
        return list(self._raw)

    def text(self, name: str, default: str = "") -> str:
        """As it is stored."""
        return self._raw.get(name) or default

    def required(self, name: str) -> str:
        """As it is stored; noted as unreadable where it is absent."""
        value = self._raw.get(name)
        if value is None:
            self.unreadable.append(name)
        return value or ""

    def integer(self, name: str, default: int = 0) -> int:
        """A whole number."""
        found = self.optional_integer(name)
        return default if found is None else found

    def optional_integer(self, name: str) -> int | None:
        """A whole number; None where there is none."""
        raw = self._raw.get(name)
        if not raw:
            return None
        try:
            return int(float(raw)) if "." in raw else int(raw)
        except (ValueError, OverflowError):
            self.unreadable.append(name)
            return None

    def json(self, name: str, expected: type[T], default: T) -> T:
        """A JSON value of the `expected` type: dict or list."""
        found = self.optional_json(name, expected)
        return default if found is None else found

    def optional_json(self, name: str, expected: type[T]) -> T | None:
        """A JSON value of the `expected` type; None where there is none."""
        raw = self._raw.get(name)
        if not raw:
            return None
        if raw == "null":
            return None
        try:
            value = json.loads(raw)
        except ValueError:
            value = None
        if isinstance(value, expected):
            return value
        self.unreadable.append(name)
        return None


def record_from_json(cls: type[T], text: str | bytes | Mapping[str, Any]) -> T:
    """The dataclass `cls` from a JSON object: unknown members are ignored, missing ones and those of another type take
    the field's default. Raises UnreadableRecord where a field without a default cannot be had."""
    try:
        raw = text if isinstance(text, Mapping) else json.loads(text)
    except ValueError:
        raw = None
    if not isinstance(raw, Mapping):
        raise UnreadableRecord(f"a stored {cls.__name__} is no JSON object", field="")
    hints = get_type_hints(cls)
    return cls(**{field.name: _value(cls, field, raw, hints[field.name]) for field in fields(cls)})  # type: ignore[arg-type]


def _value(cls: type, field: Field[Any], raw: Mapping[str, Any], hint: Any) -> Any:
    if field.name in raw and _fits(raw[field.name], hint):
        return raw[field.name]
    if field.default is not MISSING:
        return field.default
    if field.default_factory is not MISSING:
        return field.default_factory()
    found = "has no" if field.name not in raw else "makes no sense of"
    raise UnreadableRecord(f"a stored {cls.__name__} {found} {field.name}", field=field.name)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of the type: a plain one, Any, a union, or a list or dict of these."""
    origin, members = get_origin(hint), get_args(hint)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, members[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, members[1]) for item in value.values())
    if hint is Any:
        return True
    return _is_a(value, hint) if isinstance(hint, type) else any(_fits(value, member) for member in members)


def _is_a(value: Any, plain: type) -> bool:
    """As isinstance(), but a whole number is a float, and True is no number."""
    if plain in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if plain is float else plain)
