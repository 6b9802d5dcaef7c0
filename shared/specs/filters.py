"""Which rows of a collection: a condition on their metadata, or several joined by and, or, not.

Two-valued: a row without the field matches no comparison, so it matches every `not` of one, and every `ne`.
Three implementations must agree on that (worker/vectors): columns in memory, LanceDB's SQL, Qdrant's filters.
A value of another type than the field's is like no value at all: equal to nothing, in no range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, Strict, model_validator

from shared.errors import InvalidInput
from shared.specs.types import Frozen

__all__ = [
    "MAX_FIELDS_OF_TYPE", "And", "AnyFilter", "Column", "Condition", "FieldName", "FieldType", "Filter", "Not", "Or",
    "Value", "check_filter", "conditions", "type_of",
]  # fmt: skip

MAX_CONDITIONS = 64
MAX_DEPTH = 8
MAX_CHOICES = 256  # values of one `in`
MAX_FIELDS_OF_TYPE = 16  # string fields; also numbers and booleans together: a table has a column for each

FieldName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
FieldType = Literal["string", "number", "boolean"]
Number = Annotated[float, Field(ge=-(2**53), le=2**53, allow_inf_nan=False)]  # all integers in it are exact


def _storable(text: str) -> str:
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("contains U+0000 or half a surrogate pair, which no index can hold")
    return text


Value = Annotated[str, Field(max_length=1_000), AfterValidator(_storable)] | Annotated[bool, Strict()] | Number


@dataclass(frozen=True)
class Column:
    """Where a metadata field lies in a table: the `slot`-th column of strings, or of numbers and booleans."""

    type: FieldType
    slot: int


class Condition(Frozen):
    """What one field must be; all that is given must hold. Comparisons by size are for numbers."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    field: FieldName
    eq: Value | None = None
    ne: Value | None = None
    in_: list[Value] | None = Field(default=None, alias="in", min_length=1, max_length=MAX_CHOICES)
    gt: Number | None = None
    gte: Number | None = None
    lt: Number | None = None
    lte: Number | None = None
    exists: bool | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_dump(exclude={"field"}, exclude_none=True):
            raise ValueError("give at least one of eq, ne, in, gt, gte, lt, lte, exists")
        return self

    @property
    def values(self) -> list[str | bool | float]:
        """Everything that the field is compared with for being equal."""
        return [value for value in (self.eq, self.ne, *(self.in_ or [])) if value is not None]

    @property
    def is_by_size(self) -> bool:
        """Whether a bound is given."""
        return any(bound is not None for bound in (self.gt, self.gte, self.lt, self.lte))


class And(Frozen):
    """All of them."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    all_: list[AnyFilter] = Field(alias="and", min_length=1, max_length=MAX_CONDITIONS)


class Or(Frozen):
    """At least one of them."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    any_: list[AnyFilter] = Field(alias="or", min_length=1, max_length=MAX_CONDITIONS)


class Not(Frozen):
    """Those that do not match."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    not_: AnyFilter = Field(alias="not")


AnyFilter = Condition | And | Or | Not
And.model_rebuild()
Or.model_rebuild()
Not.model_rebuild()


def _bounded(filter_: AnyFilter) -> AnyFilter:
    if (count := len(conditions(filter_))) > MAX_CONDITIONS:
        raise ValueError(f"a filter has at most {MAX_CONDITIONS} conditions, this one {count}")
    if _depth(filter_) > MAX_DEPTH:
        raise ValueError(f"a filter is nested at most {MAX_DEPTH} deep")
    return filter_


Filter = Annotated[AnyFilter, AfterValidator(_bounded)]


def conditions(filter_: AnyFilter) -> list[Condition]:
    """Every condition in it, from the left."""
    if isinstance(filter_, Condition):
        return [filter_]
    return [condition for part in _parts(filter_) for condition in conditions(part)]


def _parts(filter_: And | Or | Not) -> list[AnyFilter]:
    if isinstance(filter_, Not):
        return [filter_.not_]
    return filter_.all_ if isinstance(filter_, And) else filter_.any_


def _depth(filter_: AnyFilter) -> int:
    return 1 if isinstance(filter_, Condition) else 1 + max(_depth(part) for part in _parts(filter_))


def type_of(value: Any) -> FieldType:
    """The type of a metadata value."""
    if isinstance(value, bool):
        return "boolean"
    return "string" if isinstance(value, str) else "number"


def check_filter(filter_: AnyFilter | None, fields: Mapping[str, FieldType], at: str = "filter") -> None:
    """Refuse what compares a field with another type than it has. A field that no row has yet is no mistake: nothing
    matches. Raises InvalidInput."""
    for condition in conditions(filter_) if filter_ else ():
        known = fields.get(condition.field)
        if known is None:
            continue
        for wanted in {type_of(value) for value in condition.values} | ({"number"} if condition.is_by_size else set()):
            if wanted != known:
                raise InvalidInput(
                    f"the field {condition.field} holds a {known}, the filter compares it with a {wanted}",
                    field=at,
                    limit=f"a {known}",
                )
