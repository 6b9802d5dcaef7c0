"""What one writes to search, and how folders are packed for the server."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from api.client.files.packing import Tally, packs_of, pictures_in
from api.client.files.tables import TableError, read_table
from api.client.job import Job
from api.client.query import Query, QueryError, parse_condition, parse_query, parse_weighted
from api.uploads.archives import ArchiveLimits, inspected_archive
from shared.specs.archives import read_table as read_table_of_the_server
from shared.specs.clip import SearchSpec
from shared.specs.filters import Filter
from tests.support.api import picture

ID = "img_" + "0f" * 32


# --- words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "weight", "rest"),
    [
        ("red", 1, "red"),
        ("2:red", 2, "red"),
        ("-.5:red apple", -0.5, "red apple"),
        ("+3:a: b", 3, "a: b"),
        ("1:16:9", 1, "16:9"),
        ("a:red", 1, "a:red"),
        ("2:", 1, "2:"),
        (" 2: red ", 2, "red"),
    ],
)
def test_weights_stand_in_front(text: str, weight: float, rest: str) -> None:
    assert parse_weighted(text) == (weight, rest)


def test_a_query_becomes_terms_the_server_takes(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(picture())
    terms = parse_query(
        Query(("2:red", "fruit"), ("apple", f"3:{file}", ID), (f"0.5:{file}", f"{'0' * 36}/0.png"), (ID,))
    )
    assert terms == [
        {"text": "red", "weight": 2.0},
        {"text": "fruit", "weight": 1.0},
        {"image": file, "weight": 0.5},
        {"image": f"{'0' * 36}/0.png", "weight": 1.0},
        {"id": ID, "weight": 1.0},
        {"text": "apple", "weight": -1.0},
        {"image": file, "weight": -3.0},
        {"image": ID, "weight": -1.0},
    ]
    sent = [{**term, "image": ID} if isinstance(term.get("image"), Path) else term for term in terms]
    assert len(SearchSpec.model_validate({"collection": "c", "terms": sent}).all_terms) == 8


@pytest.mark.parametrize("query", [Query(), Query(("0:red",)), Query((" ",)), Query(images=("missing.png",))])
def test_what_says_nothing_is_refused(query: Query) -> None:
    with pytest.raises(QueryError):
        parse_query(query)


TYPES = {"group": "string", "code": "string", "year": "number", "new": "boolean"}


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("group=food & drink", {"field": "group", "eq": "food & drink"}),
        ("group != flags", {"field": "group", "ne": "flags"}),
        ("group=flags|symbols", {"field": "group", "in": ["flags", "symbols"]}),
        ("group!=flags|symbols", {"not": {"field": "group", "in": ["flags", "symbols"]}}),
        ('group="a|b"|c', {"field": "group", "in": ["a|b", "c"]}),
        ("group=a=b", {"field": "group", "eq": "a=b"}),
        ("code=007", {"field": "code", "eq": "007"}),
        ("year=1999", {"field": "year", "eq": 1999.0}),
        ("other=1999", {"field": "other", "eq": 1999.0}),
        ('other="1999"', {"field": "other", "eq": "1999"}),
        ("new=true", {"field": "new", "eq": True}),
        ("year>=2000", {"field": "year", "gte": 2000.0}),
        ("year < -1.5", {"field": "year", "lt": -1.5}),
        ("year", {"field": "year", "exists": True}),
        ("!year", {"field": "year", "exists": False}),
    ],
)
def test_conditions(text: str, condition: dict[str, Any]) -> None:
    assert parse_condition([text], TYPES) == condition
    TypeAdapter(Filter).validate_python(condition)


def test_several_conditions_must_all_hold() -> None:
    both = parse_condition(["group=flags", "year>1"], TYPES)
    assert both == {"and": [{"field": "group", "eq": "flags"}, {"field": "year", "gt": 1.0}]}
    TypeAdapter(Filter).validate_python(both)
    assert parse_condition([], TYPES) is None


@pytest.mark.parametrize("text", ["", "Group=x", "year>old", "=3", "two words", "year>=1|2"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(QueryError):
        parse_condition([text], TYPES)


# --- tables ------------------------------------------------------------------------------------------------------


CSV = 'file,Shot at,Stars,Sold,Code\na.png,"Rome, Italy",4,true,007\nb/c.jpg,,3.5,false,12\n'
ROWS = {
    "a.png": {"shot_at": "Rome, Italy", "stars": 4.0, "sold": True, "code": "007"},
    "b/c.jpg": {"stars": 3.5, "sold": False, "code": "12"},
}


def test_tables_of_every_form_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\ufeff" + CSV)
    (tmp_path / "t.json").write_text(json.dumps(ROWS))
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps({"file": f"./{file}", **row}) + "\n" for file, row in ROWS.items())
    )
    assert [read_table(tmp_path / f"t.{form}") for form in ("csv", "json", "jsonl")] == [ROWS] * 3


@pytest.mark.parametrize(
    "text",
    [
        CSV.lower(),
        "file,v\na,1\nb,two\n",
        "file,v\na,nan\nb,+1\n",
        "file,v\na,-0.5\nb,1e2\n",
        f"file,v\na,{'1' * 17}\nb,1\n",
        "file,v,w\na,TRUE,\nb,,false\n",
        "file,v\na,true\nb,1\n",
    ],
)
def test_a_csv_is_read_as_the_server_reads_it(tmp_path: Path, text: str) -> None:
    text = text.replace("shot at", "shot_at")
    (tmp_path / "t.csv").write_text(text)
    theirs, errors = read_table_of_the_server("metadata.csv", text.encode())
    assert not errors
    assert read_table(tmp_path / "t.csv") == theirs


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "name\nx\n"),
        ("t.csv", "file,a\nx.png\n"),
        ("t.csv", "file,a,a\nx.png,1,2\n"),
        ("t.csv", "file,1st\nx.png,1\n"),
        ("t.csv", "file,A b,a-b\nx.png,1,2\n"),
        ("t.csv", "file,a\nx.png,1\nx.png,2\n"),
        ("t.json", "[1]"),
        ("t.json", '{"x.png": 3}'),
        ("t.jsonl", '{"name": 1}'),
        ("t.jsonl", "{"),
        ("t.xlsx", ""),
        ("t.csv", "file,a\n\x00"),
    ],
)
def test_bad_tables_are_refused_by_name(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TableError, match=name):
        read_table(tmp_path / name)


# --- packs -------------------------------------------------------------------------------------------------------


def _folder(base: Path) -> Path:
    for name in ("b/2.JPG", "b/.hidden.png", ".git/x.png", "a.png", "b/c/3.webp", "notes.txt", "c.jpeg"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(picture() + name.encode())
    (base / "gone.png").symlink_to(base / "nowhere.png")
    (base / "around").symlink_to(base, target_is_directory=True)
    return base


def _read(pack: Path) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
    with zipfile.ZipFile(pack) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    table, errors = read_table_of_the_server("metadata.jsonl", members.pop("metadata.jsonl"))
    assert not errors
    return members, table


def test_a_folder_is_walked_in_order_without_what_is_hidden(tmp_path: Path) -> None:
    assert pictures_in(_folder(tmp_path)) == ["a.png", "c.jpeg", "b/2.JPG", "b/c/3.webp"]


def test_packs_hold_every_picture_once_with_what_is_known_of_it(tmp_path: Path) -> None:
    folder, work = _folder(tmp_path / "in"), tmp_path / "work"
    work.mkdir()
    names = pictures_in(folder)
    table = {"b/2.JPG": {"stars": 4.0, "path": "mine"}, "not/there.png": {"stars": 1.0}}
    pictures: dict[str, bytes] = {}
    rows: dict[str, dict[str, Any]] = {}
    sizes = []
    for pack in packs_of(folder, names, table, work, max_pictures=3):
        assert list(work.iterdir()) == [pack.path]
        members, found = _read(pack.path)
        sizes.append(pack.pictures)
        pictures.update(members)
        rows.update(found)
    assert sizes == [3, 1]
    assert list(work.iterdir()) == []
    assert pictures == {name: (folder / name).read_bytes() for name in names}
    assert rows == {
        "a.png": {"path": "a.png"},
        "c.jpeg": {"path": "c.jpeg"},
        "b/2.JPG": {"path": "mine", "folder": "b", "stars": 4.0},
        "b/c/3.webp": {"path": "b/c/3.webp", "folder": "b/c"},
    }


def test_a_pack_ends_before_it_is_too_large_and_a_large_picture_goes_alone(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for name, size in (("a.png", 60), ("b.png", 30), ("c.png", 300), ("d.png", 20)):
        (tmp_path / name).write_bytes(b"x" * size)
    names = pictures_in(tmp_path)
    assert [pack.pictures for pack in packs_of(tmp_path, names, {}, work, max_bytes=100)] == [2, 1, 1]


def test_names_that_are_no_text_are_packed_under_one_that_is(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    odd = os.fsdecode(b"in/\xff\n.png")
    (tmp_path / "in").mkdir()
    try:
        (tmp_path / odd).write_bytes(picture())
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    for pack in packs_of(tmp_path / "in", pictures_in(tmp_path / "in"), {}, work):
        members, rows = _read(pack.path)
        assert list(members) == list(rows) == ["��.png"]
        break
    else:
        raise AssertionError("nothing was packed")


def test_names_the_server_would_refuse_are_changed_and_stay_apart(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "work").mkdir()
    for name in ("a\\b.png", "a_b.png", "C:d.png", "x" * 240 + ".png"):
        (tmp_path / "in" / name).write_bytes(picture())
    limits = ArchiveLimits(archive=2**20, member=2**16)
    for pack in packs_of(tmp_path / "in", pictures_in(tmp_path / "in"), {}, tmp_path / "work"):
        with pack.path.open("rb") as file:
            assert inspected_archive(file, limits).members == 4
        assert {"a_b.png", "0/C:d.png"} < set(_read(pack.path)[0])


def test_jobs_are_added_up() -> None:
    tally = Tally()
    for number in (1, 2):
        error = {"item": f"{number}.png", "code": "invalid_image", "message": "no picture"}
        result = {"added": 5, "updated": 1, "unchanged": 2, "failed": 1, "errors": [error]}
        tally.add(Job({"result": result}))
    assert (tally.added, tally.updated, tally.unchanged, tally.failed, tally.seen) == (10, 2, 4, 2, 18)
    assert [error["item"] for error in tally.errors or []] == ["1.png", "2.png"]
