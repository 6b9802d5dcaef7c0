"""The house benchmark counts what it says it counts."""

from __future__ import annotations

from pathlib import Path

import grimp
import pytest

from tests.benchmarks import house


def test_circles_are_sets_that_reach_each_other() -> None:
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}, "f": {"g"}, "g": {"f"}}
    assert house.circles(arrows) == [["a", "b", "c"], ["f", "g"]]


def test_a_childs_imports_count_as_its_folders() -> None:
    graph = grimp.ImportGraph()
    for module in ("p", "p.x", "p.x.one", "p.y", "p.y.two"):
        graph.add_module(module)
    graph.add_import(importer="p.x.one", imported="p.y.two")
    graph.add_import(importer="p.y", imported="p.x")
    (among,) = [arrows for arrows in house.siblings(graph) if "p.x" in arrows]
    assert house.circles(among) == [["p.x", "p.y"]]


def test_the_hardest_function_is_found_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house, "ROOT", tmp_path)
    source = tmp_path / "m.py"
    source.write_text("def easy():\n    pass\n\n\nclass C:\n    def hard(self, a):\n        return 1 if a else 2\n")
    assert house.hardest_function([source]) == (2, "m.py:6 hard")


def test_files_are_long_above_300_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house, "ROOT", tmp_path)
    for lines in (300, 301):
        (tmp_path / f"f{lines}.py").write_text("\n" * lines)
    assert house.long_files(tmp_path.glob("*.py")) == ["f301.py"]


def test_no_package_lies_in_a_circle() -> None:
    graph = grimp.build_graph(*house.PACKAGES)
    assert [house.circles(arrows) for arrows in house.siblings(graph) if house.circles(arrows)] == []
    assert house.ignored_imports() == 0
