"""Reading what is stored. A record may be older or newer than this code: what it does not know is ignored, what is
missing or makes no sense takes the field's default and is noted by name. Pure: no Redis.

Writers never rely on this. Data of a version that changes the meaning of a field needs a field of another name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from functools import cache, partial
from typing import Any, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from shared.errors import UnreadableRecord

__all__ = ["FieldReader", "record_from_json"]

T = TypeVar("T")
Fits: TypeAlias = Callable[[Any], bool]


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
        raise UnreadableRecord(f"a stored {cls.__name__} is no JSON object")
    return cls(**{field.name: _value(cls, field, raw, fits) for field, fits in _fields_of(cls)})  # type: ignore[arg-type]


@cache
def _fields_of(cls: type) -> tuple[tuple[Field[Any], Fits], ...]:
    """The dataclass' fields, and what their values must fit: the same for every record, and costly to find out."""
    hints = get_type_hints(cls)
    return tuple((field, _fits(hints[field.name])) for field in fields(cls))


def _value(cls: type, field: Field[Any], raw: Mapping[str, Any], fits: Fits) -> Any:
    if field.name in raw and fits(raw[field.name]):
        return raw[field.name]
    if field.default is not MISSING:
        return field.default
    if field.default_factory is not MISSING:
        return field.default_factory()
    found = "has no" if field.name not in raw else "makes no sense of"
    raise UnreadableRecord(f"a stored {cls.__name__} {found} {field.name}")


def _fits(hint: Any) -> Fits:
    """Whether a JSON value is of the type: a plain one, Any, a union, or a list or dict of these."""
    if hint is Any:
        return lambda _value: True
    if isinstance(hint, type) and get_origin(hint) is None:
        return partial(_is_a, plain=hint)
    members = [_fits(member) for member in get_args(hint)]
    if get_origin(hint) is list:
        return lambda value: isinstance(value, list) and all(map(members[0], value))
    if get_origin(hint) is dict:
        return lambda value: isinstance(value, dict) and all(map(members[1], value.values()))
    return lambda value: any(fits(value) for fits in members)


def _is_a(value: Any, plain: type) -> bool:
    """As isinstance(), but a whole number is a float, and True is no number."""
    if plain in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if plain is float else plain)
