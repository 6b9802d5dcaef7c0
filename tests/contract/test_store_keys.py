"""Redis keys: the table in shared/store/keys.py, its builders there and those of the Lua library say the same."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.store import keys
from shared.store.jobs import JobStore

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "shared" / "store" / "scripts"
BUILDERS_IN_LUA = SCRIPTS / "lib" / "keys.lua"
NO_KEYS = {"queue_name", "ref", "split_ref"}  # functions of keys.py that build no key

TABLE = dict(re.findall(r"^\| (\w+) \| (dq:\S+) \|", inspect.getdoc(keys) or "", re.MULTILINE))
IN_LUA = dict(re.findall(r"^local function (\w+)_key\((.*?)\)", BUILDERS_IN_LUA.read_text(), re.MULTILINE))


def parts_of(pattern: str) -> list[str]:
    """A value for each placeholder of `dq:ready:{pool}:{tenant}`."""
    return [f"a-{name}" for name in re.findall(r"{(\w+)}", pattern)]


def filled(pattern: str) -> str:
    """The key that the table promises for those values."""
    return re.sub(r"{(\w+)}", r"a-\1", pattern)


def test_the_table_lists_every_builder_and_no_other() -> None:
    named = {
        name for name, value in vars(keys).items() if inspect.isfunction(value) and value.__module__ == keys.__name__
    }
    assert named - NO_KEYS == set(TABLE)
    assert set(IN_LUA) == set(TABLE)
    assert set(keys.__all__) == named | {"PREFIX"}
    assert len(set(TABLE.values())) == len(TABLE) >= 35


@pytest.mark.parametrize("name", sorted(TABLE))
def test_python_and_lua_build_what_the_table_says(name: str, store: JobStore) -> None:
    expected, parts = filled(TABLE[name]), parts_of(TABLE[name])
    assert getattr(keys, name)(*parts) == expected
    if IN_LUA[name] == "ref":
        parts = [keys.ref(*parts)]
    arguments = ", ".join(f"ARGV[{number}]" for number in range(2, 2 + len(parts)))
    script = f"{BUILDERS_IN_LUA.read_text()}\nreturn {name}_key({arguments})"
    assert store.redis.eval(script, 0, '{"prefix": "dq:"}', *parts) == expected
    assert store.redis.eval(script, 0, '{"prefix": "other:"}', *parts) == expected.replace("dq:", "other:", 1)


def test_the_queue_of_a_pool_has_one_name(store: JobStore) -> None:
    script = f"{BUILDERS_IN_LUA.read_text()}\nreturn queue_name(ARGV[2])"
    assert store.redis.eval(script, 0, '{"prefix": "dq:"}', "p") == keys.queue_name("p")


def literals(path: Path) -> Iterator[str]:
    """Texts of a module, f-strings' parts included, docstrings not."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    told = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.value


def test_only_the_builders_of_python_spell_a_key() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {text}"
        for package in ("api", "deploy", "shared", "worker")
        for path in (ROOT / package).rglob("*.py")
        for text in literals(path)
        if keys.PREFIX in text
    }
    assert found == {f"shared/store/keys.py: {keys.PREFIX}"}


def test_no_script_spells_one() -> None:
    """Nor the library: the prefix is told to it. Comments name keys."""
    for path in SCRIPTS.rglob("*.lua"):
        code = re.sub(r"--.*", "", path.read_text())
        assert keys.PREFIX not in code, path.name
        if path != BUILDERS_IN_LUA:
            assert "PREFIX" not in code, path.name
            assert "conf.prefix" not in code, path.name
