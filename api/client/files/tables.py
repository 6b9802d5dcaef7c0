"""Metadata tables on a user's disk: CSV, JSON or JSON lines, read as the server reads those in archives.

The server's reader is shared/specs/archives.py. It is not used here, since the client imports nothing of the server; a
test holds the two together.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["TableError", "read_table"]

NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,15})(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?")  # 007 is a code, not a number
BOOLEANS = {"true": True, "false": False}
FIELD = re.compile(r"[a-z][a-z0-9_]{0,31}")


class TableError(Exception):
    """A table that cannot be read."""


def read_table(path: Path) -> dict[str, dict[str, Any]]:
    """Metadata by picture: of a .csv with a column `file`, a .json `{file: {field: value}}`, or a .jsonl with `file` in
    each line. Names of fields are written as the server wants them: `Shot at` becomes `shot_at`. Raises TableError.

    A CSV column of numbers only, or of true and false only, is one of numbers or booleans, any other of strings; it is
    looked at as a whole, so that all archives of a folder say the same.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = list(_READERS[path.suffix.lower()](text))
    except KeyError:
        raise TableError(f"{path}: a table is .csv, .json or .jsonl") from None
    except (OSError, ValueError, csv.Error) as error:
        raise TableError(f"{path}: {error}") from None
    table: dict[str, dict[str, Any]] = {}
    for file, metadata in rows:
        if file in table:
            raise TableError(f"{path}: {file} is named twice")
        table[file] = _with_valid_names(path, metadata)
    return table


def _with_valid_names(path: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for name, value in metadata.items():
        field = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        if not FIELD.fullmatch(field):
            raise TableError(f"{path}: {name!r} cannot be a field: 1 to 32 of a-z, 0-9 and _, a letter first")
        if field in named:
            raise TableError(f"{path}: two fields are called {field}")
        named[field] = value
    return named


def _csv_rows(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    columns, rows = _csv_cells(text)
    readers = {column: _reader(row[column] for row in rows) for column in columns if column != "file"}
    for row in rows:
        metadata = {column: read(row[column]) for column, read in readers.items() if row[column] != ""}
        yield _member(row["file"]), metadata


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


def _json_rows(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    table = json.loads(text)
    if not isinstance(table, dict) or not all(isinstance(row, dict) for row in table.values()):
        raise ValueError("it is not an object of files, each with an object of fields")
    for file, metadata in table.items():
        yield _member(file), metadata


def _jsonl_rows(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("file"), str):
                raise ValueError(f"line {number} is no object with a `file`")
            yield _member(row.pop("file")), row


def _member(file: str) -> str:
    """As the walk through the folder names it."""
    return Path(file).as_posix()


_READERS = {".csv": _csv_rows, ".json": _json_rows, ".jsonl": _jsonl_rows}
