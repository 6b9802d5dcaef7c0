"""`make bench ONLY=house`: what of the house's order a program can count, each figure with its bound.

Roots: source files that lie directly in a package. Circles: sets of siblings, folders or modules, that import each
other around. Complexity: McCabe's, of the hardest function, by radon. Chain: the list in ARCHITECTURE.md, which a test
holds to files that exist.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

import grimp
from radon.complexity import cc_visit
from radon.visitors import Class

from tests.benchmarks.report import Report

__all__ = ["chain_files", "circles", "hardest_function", "long_files", "run", "siblings"]

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "worker", "shared", "deploy")
MAX_ROOT_FILES = {"worker": 6, "worker/engines": 9, "shared": 8, "api": 5}
LONG_LINES = 300
TOY_KIND = ROOT / "tests" / "support" / "outside"
CHAIN = re.compile(r"^## The files a spec passes.*?$(.*?)(?=^## )", re.M | re.S)
ITEM = re.compile(r"^\d+\. `([^`]+)`", re.M)


def run(report: Report) -> None:
    """Count, and hold each figure to its bound."""
    for folder, most in MAX_ROOT_FILES.items():
        name = f"house_root_files_{folder.rpartition('/')[2]}"
        report.add(name, len(root_files(ROOT / folder)), "files", at_most=most)
    graph = grimp.build_graph(*PACKAGES)
    found = [circle for arrows in siblings(graph) for circle in circles(arrows)]
    report.add("house_circles", len(found), "circles", at_most=0, peer="; ".join(" <-> ".join(each) for each in found))
    report.add("house_ignored_imports", ignored_imports(), "imports", at_most=0)
    complexity, where = hardest_function(sources())
    report.add("house_complexity_max", complexity, "paths", at_most=12, peer=where)
    long = long_files(sources())
    report.add("house_long_files", len(long), "files", at_most=4, peer=", ".join(long))
    if TOY_KIND.is_dir():  # spec and engine, and the entry point that declares the kind
        written = [*TOY_KIND.rglob("*.py"), *TOY_KIND.rglob("entry_points.txt")]
        report.add("house_files_for_a_new_kind", len(written), "files", at_most=3, peer="all in a package of its own")
    else:
        report.miss("house_files_for_a_new_kind", "files", "there is no toy kind in tests/support/outside", at_most=3)
    if chain := chain_files():
        report.add("house_chain_files", len(chain), "files", at_most=35)
    else:
        report.miss("house_chain_files", "files", "ARCHITECTURE.md has no list of them", at_most=35)


def root_files(folder: Path) -> list[str]:
    """Modules that lie in the folder itself."""
    return sorted(path.name for path in folder.glob("*.py") if path.name != "__init__.py")


def sources() -> list[Path]:
    """Every module of ours that is shipped."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def siblings(graph: grimp.ImportGraph) -> Iterable[dict[str, set[str]]]:
    """For each package, which of its children imports which; what lies in a child imports as the child."""
    for package in sorted(module for module in graph.modules if graph.find_children(module)):
        arrows: dict[str, set[str]] = {}
        for child in graph.find_children(package):
            inside = {child} | graph.find_descendants(child)
            imported = set().union(*(graph.find_modules_directly_imported_by(module) for module in inside))
            near = {name for name in imported if name.startswith(f"{package}.")}
            depth = package.count(".") + 2
            arrows[child] = {".".join(name.split(".")[:depth]) for name in near} - {child}
        yield arrows


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Sets of names of which each is reached from each other one."""
    reached = {name: _reached(name, arrows) for name in arrows}
    found = {frozenset(o for o in reached[name] if name in reached[o]) for name in arrows if name in reached[name]}
    return sorted(sorted(circle) for circle in found)


def _reached(start: str, arrows: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        for name in arrows.get(todo.pop(), set()) - seen:
            seen.add(name)
            todo.append(name)
    return seen


def ignored_imports() -> int:
    """Imports that a contract in pyproject.toml lets pass though it forbids them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return sum(len(contract.get("ignore_imports", ())) for contract in contracts)


def hardest_function(paths: Iterable[Path]) -> tuple[int, str]:
    """Its cyclomatic complexity, and where it is. A class's own figure, the mean of its methods, says nothing."""
    blocks = ((block, path) for path in paths for block in cc_visit(path.read_text()) if not isinstance(block, Class))
    hardest, path = max(blocks, key=lambda pair: pair[0].complexity)
    return hardest.complexity, f"{path.relative_to(ROOT)}:{hardest.lineno} {hardest.name}"


def long_files(paths: Iterable[Path]) -> list[str]:
    """Those above 300 lines."""
    return [str(path.relative_to(ROOT)) for path in paths if len(path.read_text().splitlines()) > LONG_LINES]


def chain_files() -> list[str]:
    """The files that a spec passes from route to model, as ARCHITECTURE.md lists them."""
    section = CHAIN.search((ROOT / "ARCHITECTURE.md").read_text())
    return ITEM.findall(section[1]) if section else []
