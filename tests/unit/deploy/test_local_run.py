"""`dreamqueue run`: what it reads, writes and refuses. That its pictures are a queued job's is held by
tests/integration/test_worker_pictures.py."""

from __future__ import annotations

import json
import tomllib
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from api.client.cli import PLUGINS
from api.client.commands.submit import submit
from deploy.local import run as local
from tests.support.api import picture

CREATURE = json.dumps({"prompts": [{"image": "cat.png"}, {"text": "cat.png"}], "init_image": "cat.png"})


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, no settings from outside, and pytest's own log handlers left in place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "configure_logs", lambda _settings: None)


def run(*args: str, code: int = 0, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(local.run, args, input=stdin)
    assert result.exit_code == code, result.output
    return result


def test_files_go_into_the_folder_and_are_named() -> None:
    answer = run("probe", "--set", "write_bytes=300", "--out", "made", "-o", "json")
    told = json.loads(answer.stdout)
    assert Path(told["files"][0]["file"]).read_bytes()[:3] == b"\x00\x01\x02"
    assert told["parameters"]["write_bytes"] == 300
    assert {"load_s", "run_s", "encode_s"} <= told["timings"].keys()
    assert "made/probe.bin" in run("probe", "--set", "write_bytes=300", "--out", "made").stdout


def test_the_input_may_come_from_a_file_and_options_override_it() -> None:
    answer = run("probe", "--json", "-", "--set", "steps=2", "-o", "json", stdin='{"steps": 9, "step_s": 0.0}')
    assert json.loads(answer.stdout)["parameters"]["steps"] == 2


def test_pictures_are_files_wherever_an_input_names_them() -> None:
    Path("cat.png").write_bytes(picture("red", (9, 7)))
    pictures = local.LocalPictures()
    spec = local._spec("vqgan_clip", pictures.replaced(json.loads(CREATURE)))
    (image,) = pictures.load(spec, 100).values()
    assert (image.size, image.getpixel((0, 0))) == ((9, 7), (255, 0, 0))
    assert spec.prompts[1].text == "cat.png", "a text that is a file's name stays a text"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("dalle", "x", "--n", "0"), "n: "),
        (("nonsense",), "nonsense"),
        (("duplicates", "--set", "collection=mine"), "dreamqueue up"),
        (("unclip", "--set", f"image=img_{'0' * 64}"), "no file here"),
    ],
)
def test_what_cannot_be_run_here_is_refused_in_words(args: tuple[str, ...], told: str) -> None:
    assert told in run(*args, code=2).output


def test_an_engines_error_is_one_line_and_exit_code_1() -> None:
    assert run("probe", "--set", "fail=always", code=1).output.startswith("Error: probe_failed: ")


def test_a_seed_is_drawn_where_none_is_given() -> None:
    drawn = {local._spec("dalle", {"prompts": ["x"]}).seed for _ in range(3)}
    assert None not in drawn
    assert len(drawn) == 3
    assert local._spec("dalle", {"prompts": ["x"], "seed": 0}).seed == 0


def test_it_takes_the_options_of_submit() -> None:
    def options(command: click.Command) -> set[str]:
        return {param.name or "" for param in command.params}

    only_queued = {"priority", "deadline_s", "metadata", "job_id", "wait"}
    assert options(submit) - only_queued <= options(local.run) | {"url", "key"}


def test_every_plugged_in_command_is_there_and_in_help() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["dreamqueue.commands"]
    assert set(points) == set(PLUGINS)
    for place in points.values():
        module, _, name = place.partition(":")
        assert isinstance(getattr(import_module(module), name), click.Command)
