"""The house rules that a linter can check: import contracts, file sizes, docstrings, one reader of the environment."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "worker", "shared", "deploy")
# Twelve elsewhere; fewer where everybody looks first; routes are one file per resource.
MODULES_IN_A_FOLDER = {"shared": 9, "api": 5, "worker": 9, "worker/engines": 9, "api/routes": 20}
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def named(path: Path) -> str:
    """For test ids."""
    return str(path.relative_to(ROOT))


def test_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-logo"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_a_module_is_small_and_says_what_it_is(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= 600
    assert ast.get_docstring(ast.parse(source)), "no module docstring"


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_public_functions_and_classes_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text())
    missing = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not missing


@pytest.mark.parametrize("folder", sorted({path.parent for path in SOURCES}), ids=named)
def test_a_folder_has_one_subject(folder: Path) -> None:
    modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MODULES_IN_A_FOLDER.get(named(folder), 12), modules


def test_the_environment_is_read_in_one_file() -> None:
    reading = re.compile(r"os\.environ\b|os\.getenv\b")
    allowed = {
        "shared/settings.py",
        "deploy/local/processes.py",  # hands its own environment on to the children
    }
    found = {named(path) for path in SOURCES if reading.search(path.read_text())}
    assert found <= allowed


def test_every_lua_script_opens_with_what_it_does() -> None:
    for script in (ROOT / "shared" / "store" / "scripts").rglob("*.lua"):
        assert script.read_text().startswith("--"), script.name


def test_the_api_needs_no_torch_and_the_worker_no_flask() -> None:
    """Import both sides in fresh interpreters and look at what came along."""
    for module, forbidden in (("api.app", "torch"), ("api.client.cli", "flask"), ("worker.executor.runner", "flask")):
        code = f"import sys, {module}; sys.exit({forbidden!r} in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0, (module, forbidden)
