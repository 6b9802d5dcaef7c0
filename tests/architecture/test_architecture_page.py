"""ARCHITECTURE.md says what is so: its paths exist, no folder, thread or transition is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.records.job import TRANSITIONS, JobState
from tests.benchmarks.house import chain_files

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "ARCHITECTURE.md").read_text()
PATHS = sorted(set(re.findall(r"`((?:api|worker|shared|deploy|tests)/[\w./-]*|[A-Z]+\.md|pyproject\.toml)`", PAGE)))
FOLDERS = sorted(
    f"{init.parent.relative_to(ROOT)}/"
    for package in ("api", "worker", "shared", "deploy")
    for init in (ROOT / package).glob("*/__init__.py")
)
PERIODIC = re.compile(r"PeriodicThread\(\s*\"([\w-]+)\"")
THREADS = sorted({name for path in (ROOT / "worker").rglob("*.py") for name in PERIODIC.findall(path.read_text())})


@pytest.mark.parametrize("path", PATHS)
def test_what_it_names_is_there(path: str) -> None:
    place = ROOT / path
    assert place.is_dir() if path.endswith("/") else place.is_file()


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_is_named(folder: str) -> None:
    assert f"`{folder}`" in PAGE


def test_every_thread_is_named() -> None:
    assert len(THREADS) > 5, "the pattern finds them no more"
    table = PAGE[PAGE.index("### Threads") : PAGE.index("### States of a job")]
    assert [name for name in THREADS if f"`{name}`" not in table] == []


def test_the_diagram_of_states_is_the_table_of_transitions() -> None:
    drawn = set(re.findall(r"^    (\w+) --> (\w+):", PAGE, re.M))
    allowed = {(a.value, b.value) for a, targets in TRANSITIONS.items() for b in targets}
    assert drawn == allowed
    assert JobState.UNKNOWN not in {state for pair in drawn for state in pair}


def test_the_chain_names_each_file_once() -> None:
    files = chain_files()
    assert len(files) == len(set(files)) > 10
    assert files[0].startswith("api/routes/")
    assert all(file in PATHS for file in files)
    assert files[-1].startswith("worker/models/")
