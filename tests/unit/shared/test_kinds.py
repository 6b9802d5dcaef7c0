"""The table of kinds, what follows from it, and kinds of other packages, good and broken."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import ValidationError
from structlog.testing import capture_logs

from api.client.commands.submit import submit
from shared.settings import Settings
from shared.specs import kinds as table
from shared.specs.declaration import ENGINE, NAME
from shared.specs.kinds import OURS, broken_kinds, kinds, kinds_served, parse_spec, read_spec
from tests.support.packages import TOY, write_package
from worker.engines.options import EngineOptions
from worker.engines.registry import UnknownKind, build_engines

NAMES = [kind.name for kind in OURS]
TOY_SOURCE = """
from typing import Literal
from shared.specs.kinds import Kind, Spec
class ToySpec(Spec):
    kind: Literal["KIND"] = "KIND"
    n: int = 1
KIND = Kind(ToySpec, "ENGINE", {"n": 2})
"""


def source(kind: str = "odd", engine: str = "nowhere:build") -> str:
    return TOY_SOURCE.replace('"KIND"', f'"{kind}"').replace("ENGINE", engine)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Put a folder of packages on the path; the table is read anew."""

    def forget() -> None:
        for cached in (table.kinds, table._plugins, table._adapter):
            cached.cache_clear()

    def install(folder: Path) -> None:
        monkeypatch.syspath_prepend(str(folder))
        forget()

    before = set(sys.modules)
    yield install
    forget()
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {"toy_kind", "odd_package"}:
            del sys.modules[name]


# --- the table ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OURS, ids=NAMES)
def test_a_declaration_holds(kind: table.Kind) -> None:
    assert NAME.match(kind.name)
    assert parse_spec(kind.name, dict(kind.example)).kind == kind.name
    assert isinstance(kind.spec.model_validate({**kind.example}), kind.spec)
    assert ENGINE.match(kind.engine)
    module, _, function = kind.engine.partition(":")
    assert callable(getattr(import_module(module), function))
    assert kind.makes_pictures == ({"seed", "collect"} <= set(kind.spec.model_fields))
    assert kind.takes_collections == ("collection" in kind.spec.model_fields)
    assert kind.takes_collections or not kind.is_part_of_collection


def test_names_differ() -> None:
    assert len(set(NAMES)) == len(NAMES)


def test_every_kind_of_ours_is_served_by_default() -> None:
    assert kinds_served(Settings().kinds) == NAMES
    assert kinds_served(" probe, default,probe") == ["probe", *[name for name in NAMES if name != "probe"]]
    assert kinds_served("") == []


def test_the_documents_name_the_kinds_there_are() -> None:
    listed = re.search(r"which are\n# (.*)\n", Path("deploy/env.example").read_text())
    assert listed
    assert listed[1].split(", ") == NAMES
    shown = " ".join(CliRunner().invoke(submit, ["--help"]).output.split())
    assert f"KIND is {', '.join(NAMES)}, or another" in shown
    assert all(f"`{name}`" in Path("CONTRIBUTING.md").read_text() for name in ("dreamqueue.kinds", "EngineParts"))


def test_the_page_offers_what_makes_pictures() -> None:
    page = Path("api/ui/index.html").read_text()
    offered = set(re.findall(r'name="kind" value="(\w+)"', page))
    assert offered <= set(NAMES)
    assert {kind.name for kind in OURS if kind.makes_pictures} <= offered
    for shown_for in re.findall(r'data-kinds="([^"]+)"', page):
        assert set(shown_for.split()) <= offered


# --- other packages ----------------------------------------------------------------------------------------------


def test_a_kind_of_another_package_is_one_like_ours(installed: Callable[[Path], None]) -> None:
    installed(TOY)
    assert list(kinds()) == [*NAMES, "toy"]
    assert kinds()["toy"].package == "toy-kind"
    assert "toy" not in kinds_served("default")
    assert parse_spec("toy", {"prompts": ["red"]}).model_dump() == {
        "kind": "toy", "prompts": ["red"], "size": 16, "seed": None,
    }  # fmt: skip
    with pytest.raises(ValidationError) as refused:
        parse_spec("toy", {"prompts": [], "size": 7})
    assert [error["loc"] for error in refused.value.errors()] == [("toy", "prompts"), ("toy", "size")]
    assert "newer" not in read_spec("toy", {"prompts": ["red"], "newer": 1}).model_dump()
    assert list(build_engines(["toy", "probe"], EngineOptions())) == ["toy", "probe"]


def test_it_may_belong_to_every_worker(installed: Callable[[Path], None], tmp_path: Path) -> None:
    installed(write_package(tmp_path, "odd_package", source(), kind="odd"))
    assert kinds_served("default") == [*NAMES, "odd"]


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        ("odd", "import nothing_like_this", "No module named"),
        ("odd", "raise SystemExit(3)", "SystemExit: 3"),
        ("odd", "1 +", "SyntaxError"),
        ("odd", "KIND = 7", "no shared.specs.declaration.Kind"),
        ("odd", "OTHER = 7", "no attribute"),
        ("odd", source(engine="a.b"), "package.module:function"),
        ("odd", source("other"), "leads to the kind other"),
        ("odd", source().replace('{"n": 2}', '{"n": "two"}'), "valid integer"),
        ("odd", source().replace("class ToySpec(Spec)", "class ToySpec"), "no subclass"),
        ("odd", source().replace(': Literal["odd"]', ": str"), "Literal[NAME]"),
        ("odd", source().replace('{"n": 2}', '{"n": {2}}'), "JSON"),
        ("default", source("default"), "can be no kind"),
        ("a-b", source("a-b"), "can be no kind"),
        ("dalle", source("dalle"), "there is a kind dalle already"),
    ],
    ids=lambda value: str(value).strip()[:24],
)
def test_a_broken_one_is_a_line_in_the_log(
    installed: Callable[[Path], None], tmp_path: Path, kind: str, text: str, why: str
) -> None:
    installed(write_package(tmp_path, "odd_package", text, kind=kind))
    with capture_logs() as logs:
        assert list(kinds()) == NAMES
        parse_spec("dalle", {"prompts": ["a"]})
    (line,) = logs
    assert (line["kind"], line["package"], line["log_level"]) == (kind, "odd_package", "error")
    assert why in line["error"]
    assert broken_kinds() == {kind}


def test_a_worker_serves_the_rest(installed: Callable[[Path], None], tmp_path: Path) -> None:
    installed(write_package(tmp_path, "odd_package", "raise KeyError(1)", kind="odd"))
    assert list(build_engines(["odd", "probe"], EngineOptions())) == ["probe"]
    with pytest.raises(UnknownKind, match="nothing can be served"):
        build_engines(["odd"], EngineOptions())
    with pytest.raises(UnknownKind, match="there are no kinds paint; there are dalle"):
        build_engines(["odd", "paint", "probe"], EngineOptions())


def test_a_broken_engine_of_another_package_is_a_kind_less(installed: Callable[[Path], None], tmp_path: Path) -> None:
    installed(write_package(tmp_path, "odd_package", source(), kind="odd"))
    with capture_logs() as logs:
        assert list(build_engines(["odd", "probe"], EngineOptions())) == ["probe"]
    (line,) = logs
    assert (line["kind"], line["package"]) == ("odd", "odd_package")
    assert "No module named 'nowhere'" in line["error"]


def test_metadata_that_cannot_be_read_stops_nobody(installed: Callable[[Path], None], tmp_path: Path) -> None:
    folder = write_package(tmp_path, "odd_package", source(), kind="odd")
    (folder / "odd_package-1.0.dist-info" / "entry_points.txt").write_bytes(b"\xff\xfe[")
    installed(folder)
    assert list(kinds())[: len(NAMES)] == NAMES
