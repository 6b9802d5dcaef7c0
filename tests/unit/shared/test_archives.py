"""Metadata tables of archives, in their three forms: what is read, what is refused, how cells become values."""

from __future__ import annotations

from typing import Any

import pytest

from shared.specs.archives import is_skipped, member_name, read_table

CSV = b"""\xef\xbb\xbffile,name,year,size,code,is_round,note
./a.png,apple,1990,2.5,007,true,
b/c.png,"pear, green",-3,1e2,8,FALSE,x
"""


def test_a_columns_cells_have_one_type() -> None:
    assert read_table("metadata.csv", CSV) == (
        {
            "a.png": {"name": "apple", "year": 1990.0, "size": 2.5, "code": "007", "is_round": True},
            "b/c.png": {
                "name": "pear, green",
                "year": -3.0,
                "size": 100.0,
                "code": "8",
                "is_round": False,
                "note": "x",
            },
        },
        [],
    )


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (("1", "2"), [1.0, 2.0]),
        (("1", "two"), ["1", "two"]),
        (("true", "no"), ["true", "no"]),
        (("nan", "1"), ["nan", "1"]),
        (("+1", "1"), ["+1", "1"]),
        (("1", "true"), ["1", "true"]),
        (("0", "-0.5"), [0.0, -0.5]),
        (("1" * 17, "1"), ["1" * 17, "1"]),
        (("", "1"), [None, 1.0]),
    ],
)
def test_numbers_are_only_what_everyone_reads_as_one(cells: tuple[str, str], expected: list[Any]) -> None:
    rows, errors = read_table("metadata.csv", f"file,v\na,{cells[0]}\nb,{cells[1]}\n".encode())
    assert [rows["a"].get("v"), rows["b"].get("v")] == expected
    assert not errors


def test_the_forms_say_the_same() -> None:
    expected = {"a.png": {"n": 1.0, "ok": True, "word": "x"}, "b.png": {}}
    lines = b'{"file": "a.png", "n": 1, "ok": true, "word": "x"}\r\n\n{"file": "./b.png"}'
    table = b'{"./a.png": {"n": 1, "ok": true, "word": "x"}, "b.png": {}}'
    assert read_table("metadata.jsonl", lines) == (expected, [])
    assert read_table("metadata.json", table) == (expected, [])
    assert read_table("metadata.csv", b"file,n,ok,word\na.png,1,true,x\nb.png,,,\n") == (expected, [])


def test_a_wrong_row_is_named_and_the_others_are_kept() -> None:
    rows, errors = read_table("metadata.json", b'{"a": {"x": 1}, "b": {"X": 1}, "c": {"x": null}, "d": 4, "./a": {}}')
    assert rows == {"a": {"x": 1.0}}
    assert [(error.file, error.field) for error in errors] == [("b", "X"), ("c", "x"), ("d", ""), ("a", "")]
    assert errors[1].message == "a value is a string, a number or a boolean"
    assert errors[3].message == "it is named twice"


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("metadata.csv", b""), ("metadata.csv", b"a,b\n1,2\n"), ("metadata.csv", b"file,a\nx\n"),
        ("metadata.csv", b"file,a\nx,1,2\n"), ("metadata.csv", b"file,a,a\nx,1,2\n"),
        ("metadata.csv", b'file,a\nx,"1\n'),
        ("metadata.csv", b"file,a\nx,\xff\n"), ("metadata.csv", b"file,a\nx," + b"y" * 200_000),
        ("metadata.json", b""), ("metadata.json", b"[]"), ("metadata.json", b"[" * 100_000),
        ("metadata.json", b'{"a": {"n": 1, "n": 2}}'), ("metadata.json", b'{"a": {"n": ' + b"9" * 5_000 + b"}}"),
        ("metadata.jsonl", b"[]"), ("metadata.jsonl", b'{"n": 1}'), ("metadata.jsonl", b'{"file": 1}'),
        ("metadata.jsonl", b"{"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read_says_so(name: str, body: bytes) -> None:
    rows, (error,) = read_table(name, body)
    assert (rows, error.file, error.field) == ({}, "", "")
    assert error.message


def test_which_members_count() -> None:
    assert [
        name
        for name in ("a.png", ".a.png", "b/.c/a.png", "__MACOSX/a.png", "b/a", "LICENSE.txt")
        if not is_skipped(name)
    ] == ["a.png", "b/a"]
    assert [member_name(name) for name in ("./a", "././a/b", "a/./b", ".a")] == ["a", "a/b", "a/./b", ".a"]
