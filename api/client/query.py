"""What one writes on a command line to search: `2:red`, `group=food & drink`, `year>=2000`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.client.files.packing import SUFFIXES

__all__ = ["Query", "QueryError", "parse_condition", "parse_query", "parse_weighted"]

WEIGHTED = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+)):(.+)", re.DOTALL)
COMPARED = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(!=|>=|<=|=|>|<)(.*)", re.DOTALL)
EXISTS = re.compile(r"\s*(!?)\s*([a-z][a-z0-9_]*)\s*")
IMAGE_ID = re.compile(r"img_[0-9a-f]{64}")
NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
CHOICES = re.compile(r'\|(?=(?:[^"]*"[^"]*")*[^"]*$)')  # bars that are not in quotes
SIZES = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}


class QueryError(ValueError):
    """What was written cannot be read."""


@dataclass(frozen=True)
class Query:
    """The words of one search, as they were given."""

    texts: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()


def parse_query(query: Query) -> list[dict[str, Any]]:
    """Terms of a search; a picture on this disk is named by its Path, to be uploaded. Raises QueryError.

    Each may start with a weight, as in rclip: `2:red`. What is in `negatives` is a text unless it is the id of a
    picture, or a picture file that is there; its weight is turned round.
    """
    terms = [_term(text, "text") for text in query.texts]
    terms += [_term(image, "image") for image in query.images]
    terms += [_term(image, "id") for image in query.ids]
    for text in query.negatives:
        term = _term(text, _kind_of(parse_weighted(text)[1]))
        terms.append({**term, "weight": -term["weight"]})
    if not terms:
        raise QueryError("say what to look for: a text, --image or --id")
    if any(term["weight"] == 0 for term in terms):
        raise QueryError("a weight of 0 says nothing")
    return terms


def parse_weighted(text: str) -> tuple[float, str]:
    """`2:red` is red with the weight 2; without a number in front the weight is 1. `1:16:9` is the text 16:9."""
    found = WEIGHTED.fullmatch(text.strip())
    return (float(found[1]), found[2].strip()) if found else (1.0, text.strip())


def _term(text: str, kind: str) -> dict[str, Any]:
    weight, rest = parse_weighted(text)
    if not rest:
        raise QueryError(f"{text!r} says nothing")
    if kind == "image":
        if Path(rest).is_file():
            return {"image": Path(rest), "weight": weight}
        if "/" not in rest and not IMAGE_ID.fullmatch(rest):
            raise QueryError(f"no picture {rest}: a file, img_... or JOB/NAME")
    return {kind: rest, "weight": weight}


def _kind_of(text: str) -> str:
    if IMAGE_ID.fullmatch(text):
        return "image"
    return "image" if Path(text).suffix.lower() in SUFFIXES and Path(text).is_file() else "text"


def parse_condition(texts: Iterable[str], types: Mapping[str, str]) -> dict[str, Any] | None:
    """A filter of all that is said: `group=food & drink`, `group!=symbols`, `year>=2000`, `group=animals|flags` (one of
    them), `year` (has one), `!year`. `types` are the collection's: they say whether 7 is a number. Raises QueryError.
    """
    found = [_condition(text, types) for text in texts]
    return {"and": found} if len(found) > 1 else found[0] if found else None


def _condition(text: str, types: Mapping[str, str]) -> dict[str, Any]:
    if there := EXISTS.fullmatch(text):
        return {"field": there[2], "exists": not there[1]}
    compared = COMPARED.fullmatch(text)
    if not compared:
        raise QueryError(f"{text!r} is no condition: as in group=food & drink, year>=2000, group=animals|flags, !year")
    field, operator, rest = compared[1], compared[2], compared[3].strip()
    if operator in SIZES:
        if not NUMBER.fullmatch(rest):
            raise QueryError(f"{text!r}: {operator} is for numbers")
        return {"field": field, SIZES[operator]: float(rest)}
    values = [_value(value.strip(), types.get(field)) for value in CHOICES.split(rest)]
    if len(values) == 1:
        return {"field": field, "eq" if operator == "=" else "ne": values[0]}
    chosen = {"field": field, "in": values}
    return chosen if operator == "=" else {"not": chosen}


def _value(text: str, type_: str | None) -> str | bool | float:
    """As the field's type has it; of a field that is not known, as it looks. Quotes make a text of anything."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1]
    if type_ != "string":
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        if NUMBER.fullmatch(text):
            return float(text)
    return text
