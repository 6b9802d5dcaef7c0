"""What an archive of pictures looks like: which of its members count, and the metadata table at its root.

The door refuses an archive that breaks these rules, the worker reads it by them.

A table is `metadata.csv` (a column `file`, one column per field), `metadata.json` (`{file: {field: value}}`) or
`metadata.jsonl` (`{"file": ..., field: value}` a line). A CSV column whose filled cells are all numbers, or all true or
false, is one of numbers or booleans; any other is of strings. An empty cell is no value.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from shared.specs.clip import Metadata

__all__ = ["MAX_TABLE_BYTES", "TABLES", "RowError", "is_skipped", "member_name", "read_table"]

TABLES = ("metadata.csv", "metadata.json", "metadata.jsonl")
TEXTS = (".txt", ".md")
MAX_TABLE_BYTES = 8 * 2**20
NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,15})(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?")  # 007 is a code, not a number
BOOLEANS = {"true": True, "false": False}

_METADATA: TypeAdapter[dict[str, Any]] = TypeAdapter(Metadata, config=ConfigDict(strict=True))


@dataclass(frozen=True)
class RowError:
    """A row that cannot be taken. `file` is empty where the table itself is at fault."""

    file: str
    field: str
    message: str


def member_name(raw: str) -> str:
    """A member's name as the table says it: without the `./` that tar puts in front."""
    while raw.startswith("./"):
        raw = raw[2:]
    return raw


def is_skipped(name: str) -> bool:
    """Whether a member is neither picture nor table: what macOS adds, files and folders that start with a dot, and what
    is there to be read, such as a licence."""
    is_text = name.lower().endswith(TEXTS)
    return is_text or any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def read_table(name: str, body: bytes) -> tuple[dict[str, dict[str, Any]], list[RowError]]:
    """Metadata by file, and what is wrong; rows with an error are left out. `name` is one of TABLES."""
    try:
        text = body.decode("utf-8-sig")
        rows = list(_READERS[name](text))
    except UnicodeDecodeError:
        return {}, [RowError("", "", "it is not UTF-8")]
    except (ValueError, RecursionError, csv.Error) as error:
        return {}, [RowError("", "", f"it cannot be read: {str(error)[:200] or 'nested too deeply'}")]
    found: dict[str, dict[str, Any]] = {}
    errors: list[RowError] = []
    for file, metadata in rows:
        wrong = [RowError(file, "", "it is named twice")] if file in found else _errors(file, metadata)
        errors += wrong
        if not wrong:
            found[file] = _METADATA.validate_python(metadata)
    return found, errors


def _errors(file: str, metadata: Any) -> list[RowError]:
    try:
        _METADATA.validate_python(metadata)
    except ValidationError as error:
        listed = error.errors(include_url=False, include_input=False, include_context=False)
        return [RowError(file, str(item["loc"][0])[:64] if item["loc"] else "", _said(item)) for item in listed[:1]]
    return []


def _said(item: Any) -> str:
    if item["loc"] and str(item["type"]).endswith("_type"):
        return "a value is a string, a number or a boolean"
    return str(item["msg"]).removeprefix("Value error, ")


def _csv_rows(text: str) -> Iterator[tuple[str, Any]]:
    columns, rows = _csv_cells(text)
    readers = {column: _reader(row[column] for row in rows) for column in columns if column != "file"}
    for row in rows:
        metadata = {column: read(row[column]) for column, read in readers.items() if row[column] != ""}
        yield member_name(row["file"]), metadata


def _csv_cells(text: str) -> tuple[list[str], list[dict[str, str]]]:
    """The columns, and every line's cells by them. Raises ValueError."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    columns = list(reader.fieldnames or ())
    if "file" not in columns:
        raise ValueError("it has no column `file`")
    if len(set(columns)) != len(columns):
        raise ValueError("a column is named twice")
    rows = list(reader)
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ValueError(f"line {number} has not as many cells as there are columns")
    return columns, rows


def _reader(cells: Iterable[str]) -> Any:
    filled = [cell for cell in cells if cell != ""]
    if filled and all(cell.lower() in BOOLEANS for cell in filled):
        return lambda cell: BOOLEANS[cell.lower()]
    return float if filled and all(NUMBER.fullmatch(cell) for cell in filled) else str


def _json_rows(text: str) -> Iterator[tuple[str, Any]]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a name stands twice in one object")
        return dict(pairs)

    table = json.loads(text, object_pairs_hook=once)
    if not isinstance(table, dict):
        raise ValueError("it is not an object of files")
    for file, metadata in table.items():
        yield member_name(file), metadata


def _jsonl_rows(text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("file"), str):
                raise ValueError(f"line {number} is no object with a `file`")
            yield member_name(row.pop("file")), row


_READERS = {"metadata.csv": _csv_rows, "metadata.json": _json_rows, "metadata.jsonl": _jsonl_rows}
