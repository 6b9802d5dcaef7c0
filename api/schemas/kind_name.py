"""The name of a kind as a field's type: an enumeration of the table of kinds, which is only known at run time."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from shared.specs.kinds import kinds

__all__ = ["KindName"]


class _OneOfTheTable:
    """Says what a Literal of all names would say, in errors and in schemas."""

    @staticmethod
    def __get_pydantic_core_schema__(_source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(_known)

    @staticmethod
    def __get_pydantic_json_schema__(_schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"enum": list(kinds()), "type": "string"}


def _known(name: Any) -> str:
    if isinstance(name, str) and name in kinds():
        return name
    *others, last = (repr(known) for known in kinds())
    raise PydanticKnownError("literal_error", {"expected": f"{', '.join(others)} or {last}"})


KindName = Annotated[str, _OneOfTheTable]
