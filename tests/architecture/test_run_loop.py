"""The run loop's own rules: a run's context is told by verbs, and what was raised stays as it was."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OUTSIDE = sorted(
    path
    for folder in ("worker", "tests/unit/worker")
    for path in (ROOT / folder).rglob("*.py")
    if (ROOT / "worker" / "run") not in path.parents
)
SOURCES = sorted((ROOT / "worker").rglob("*.py"))


def stored(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Attributes that are assigned to, in whatever form, or deleted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"setattr", "delattr"}:
            yield ast.Attribute(node.args[0], "set by name", ast.Store(), lineno=node.lineno)


def names(node: ast.expr) -> Iterator[str]:
    """Of the chain of attributes that `node` is."""
    while isinstance(node, ast.Attribute):
        yield node.attr
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id


def contexts(tree: ast.AST) -> set[str]:
    """Names that stand for a run's context in this file."""
    annotated = {
        node.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.arg) and node.annotation and "JobContext" in ast.unparse(node.annotation)
    }
    return {"context", "_context", *annotated}


def foreign_writes(source: str) -> list[int]:
    """Lines that set an attribute of a context, or of what it holds."""
    tree = ast.parse(source)
    known = contexts(tree)
    return [node.lineno for node in stored(tree) if known & set(names(node.value))]


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_else_sets_an_attribute_of_a_context(path: Path) -> None:
    assert foreign_writes(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "context.moved_at = 1",
        "made.context.snapshots.offer = None",
        "context.thread, other = 1, 2",
        "self._context.steps += 1",
        "setattr(context, 'offer', None)",
        "del context.offer",
        "def f(run: JobContext): run.offer = 1",
    ],
)
def test_such_a_line_is_found(line: str) -> None:
    assert foreign_writes(line) == [1]


def test_what_is_no_write_to_a_context_is_none() -> None:
    assert foreign_writes("self.context = context\ncontext.stop(x)\nx = context.claim\nself.moved_at = 1") == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_error_is_changed_after_it_was_raised(path: Path) -> None:
    """Whether a job runs again is said by the outcome (worker/executor/outcome.py)."""
    writes = [node.lineno for node in stored(ast.parse(path.read_text())) if node.attr == "retryable"]
    assert writes == []
