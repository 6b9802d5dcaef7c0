"""Search as a person and a program use it: the command line and the Python client on the embedded stack."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import functools
import http.server
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import zipfile
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import click.testing
import pytest
from PIL import Image

from api.client import DreamqueueClient
from api.client.cli import cli
from api.client.errors import InvalidRequest, Missing
from tests.support.polling import PATIENCE_S
from tests.support.stacks import RunningStack

KINDS = "rank,classify,search,index,remove,reembed,duplicates,group"
THINGS = ("red-apple", "cherries", "pizza", "red-heart", "green-heart", "cat-face", "dog-face", "fire-engine")
Run = Callable[..., click.testing.Result]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One stack for all; each test has its own collection."""
    folder = tmp_path_factory.mktemp("stack")
    running = RunningStack(folder, kinds=KINDS, OMP_NUM_THREADS="1", DREAMQUEUE_FETCH_HOSTS="127.0.0.1").wait_ready()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(stack: RunningStack) -> Iterator[DreamqueueClient]:
    """The Python client with the development key."""
    with DreamqueueClient(stack.url, stack.key) as client:
        yield client


@pytest.fixture(scope="module")
def run(stack: RunningStack) -> Run:
    """Call the command line with the environment it reads."""
    runner = click.testing.CliRunner(env={"DREAMQUEUE_URL": stack.url, "DREAMQUEUE_API_KEY": stack.key})

    def call(*words: object, code: int = 0) -> click.testing.Result:
        result = runner.invoke(cli, [str(word) for word in words])
        assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
        return result

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight pictures in two folders, a table of them, and a text that is called a picture."""
    base = tmp_path / "My Things"
    with zipfile.ZipFile(str(resources.files("deploy") / "pictures" / "openmoji.zip")) as archive:
        for number, thing in enumerate(THINGS):
            place = base / ("eat" if number < 3 else "see") / f"{thing}.webp"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(archive.read(f"{thing}.webp"))
    (base / "see" / "text.png").write_text("not a picture")
    (tmp_path / "table.csv").write_text("file,Stars\neat/cherries.webp,5\nsee/cat-face.webp,3\n")
    return base


def test_a_folder_becomes_a_collection(run: Run, folder: Path, tmp_path: Path) -> None:
    first = run("index", folder, "--metadata", tmp_path / "table.csv")
    assert "my-things: 8 added, 0 updated, 0 unchanged, 1 failed; 8 in all" in first.stdout
    assert "see/text.png" in first.stderr
    again = run("index", folder, "--metadata", tmp_path / "table.csv", "--json")
    tally = json.loads(again.stdout)
    assert [tally[name] for name in ("added", "updated", "unchanged", "failed", "rows")] == [0, 0, 8, 1, 8]
    shown = json.loads(run("collections", "show", "my-things", "--json").stdout)
    assert shown["rows"] == 8
    assert shown["fields"] == {"path": "string", "folder": "string", "stars": "number"}
    assert "my-things" in run("collections").stdout

    hits = json.loads(run("search", "a red heart", "-c", "my-things", "--json").stdout)["hits"]
    assert hits[0]["metadata"]["path"] == "see/red-heart.webp"
    starred = run("search", "food", "-c", "my-things", "--where", "stars>=4")
    assert [line.split()[3] for line in starred.stdout.splitlines()[1:]] == ["eat/cherries.webp"]
    either = '{"or": [{"field": "stars", "eq": 3}, {"field": "folder", "eq": "eat"}]}'
    filtered = run("search", "food", "-c", "my-things", "--filter", either, "--where", "!stars", "--json")
    assert {hit["metadata"]["path"] for hit in json.loads(filtered.stdout)["hits"]} == {
        "eat/red-apple.webp",
        "eat/pizza.webp",
    }
    run("collections", "delete", "my-things", "--yes")
    run("search", "food", "-c", "my-things", code=4)


def test_pictures_are_found_by_pictures_words_and_both(run: Run, folder: Path, tmp_path: Path) -> None:
    run("index", folder, "--collection", "both")
    cat, sheet = folder / "see" / "cat-face.webp", tmp_path / "sheet.png"
    answer = json.loads(run("search", "--image", cat, "-c", "both", "--sheet", sheet, "--json").stdout)
    assert answer["hits"][0]["metadata"]["path"] == "see/cat-face.webp"
    assert answer["hits"][0]["cosine"] == pytest.approx(1, abs=1e-3)
    with Image.open(sheet) as picture:
        assert picture.width > 400
    the_same = answer["hits"][0]["id"]
    away = json.loads(run("search", "2:cat", "--not", f"3:{the_same}", "-c", "both", "-n", 8, "--json").stdout)
    assert away["hits"][-1]["id"] == the_same
    near = run("search", "--id", the_same, "-c", "both", "-n", 2, "--pictures", "blocks")
    assert "▀" in near.stdout
    assert "see/cat" in near.stdout
    run("search", "-c", "both", code=2)
    run("search", "x", "-c", "both", "--where", "what?", code=2)
    run("search", "x", "-c", "both", "--where", "path>3", code=2)
    run("collections", "delete", "both", "--yes")


def test_a_terminal_shows_pictures_and_nothing_else(stack: RunningStack, run: Run, folder: Path) -> None:
    run("index", folder, "--collection", "shown")
    said = _in_a_terminal(stack, "search", "a red heart", "-c", "shown", "-n", "2")
    assert "▀" in said
    assert "see/red-heart.webp" in said
    assert "Traceback" not in said
    assert "▀" not in _in_a_terminal(stack, "search", "a red heart", "-c", "shown", "-n", "2", "--no-pictures")
    run("collections", "delete", "shown", "--yes")


def test_archives_and_addresses_are_sources_too(run: Run, folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "Three.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted((folder / "eat").iterdir()):
            file.write(path, path.name)
        file.writestr("metadata.json", json.dumps({"pizza.webp": {"name": "pizza"}}))
    assert "three: 3 added" in run("index", archive).stdout
    with _web(folder) as address:
        assert "three: 1 added" in run("index", f"{address}/see/cat-face.webp", "-c", "three").stdout
        run("index", f"{address}/see/cat-face.webp", code=2)
        missing = run("index", f"{address}/nothing.png", "-c", "three", code=1)
    assert "1 failed" in missing.stdout
    assert run("search", "pizza", "-c", "three", "-n", 1).stdout.splitlines()[1].split()[3] == "pizza"
    run("index", tmp_path / "nowhere", code=2)
    run("index", code=2)
    (tmp_path / "empty").mkdir()
    run("index", tmp_path / "empty", code=2)
    (tmp_path / "bad.zip").write_text("no archive")
    run("index", tmp_path / "bad.zip", "-c", "three", code=2)
    run("collections", "delete", "three", "--yes")


def test_pictures_and_collections_are_classified(run: Run, folder: Path, tmp_path: Path) -> None:
    labels = ("--label", "pizza", "--label", "cat face", "--label", "fire engine")
    cat, pizza = folder / "see" / "cat-face.webp", folder / "eat" / "pizza.webp"
    shown = run("classify", cat, pizza, *labels, "--out", tmp_path / "few").stdout.splitlines()
    assert [re.split(r"\s{2,}", line)[1] for line in shown[1:]] == ["cat face", "pizza"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "few" / "classifications.csv").read_text())))
    assert [row["label"] for row in rows] == ["cat face", "pizza"]
    run("index", folder, "--collection", "sorted")
    (tmp_path / "labels.txt").write_text("pizza\ncat face\n\nfire engine\n")
    whole = run("classify", "-c", "sorted", "--labels-file", tmp_path / "labels.txt", "--where", "folder=see",
                "--templates", "imagenet_7", "--other-below", "0.9", "--out", tmp_path / "all", "--json")  # fmt: skip
    result = json.loads(whole.stdout)["result"]
    assert sum(result["counts"].values()) == 5
    assert len(json.loads((tmp_path / "all" / "classifications.json").read_text())) == 5
    run("classify", cat, "--label", "one", code=2)
    run("classify", "--label", "a", "--label", "b", code=2)
    run("collections", "delete", "sorted", "--yes")


def test_near_duplicates_and_groups(run: Run, folder: Path, tmp_path: Path) -> None:
    with Image.open(folder / "eat" / "pizza.webp") as picture:
        picture.convert("RGB").save(folder / "eat" / "pizza-again.png")
    run("index", folder, "--collection", "alike")
    found = run("collections", "duplicates", "alike", "--threshold", "0.99", "--json").stdout
    (same,) = json.loads(found)["sets"]
    assert len(same) == 2
    grouped = run("collections", "groups", "alike", "--k", 3, "--label", "food", "--label", "heart", "--out", tmp_path)
    assert len(grouped.stdout.splitlines()) == 4
    assert sum(group["size"] for group in json.loads((tmp_path / "groups.json").read_text())) == 9
    run("collections", "delete", "alike", "--yes")


def test_every_call_of_the_python_client(client: DreamqueueClient, folder: Path) -> None:
    made = client.create_collection("calls", description="mine")
    assert client.create_collection("calls")["created_at"] == made["created_at"]
    with pytest.raises(InvalidRequest):
        client.create_collection("calls", model="no-clip")
    paths = sorted(folder.rglob("*.webp"))
    pictures = [paths[0], client.upload_image(paths[1]), {"image": paths[2], "metadata": {"name": "third"}}]
    job = client.wait(client.add_images("calls", pictures).id, timeout_s=PATIENCE_S)
    assert (job.state, (job.result or {})["added"]) == ("succeeded", 3)
    whole = client.search("calls", "food", limit=3)
    first = client.search("calls", "food", limit=1)
    assert first["hits"] == whole["hits"][:1]
    assert client.search("calls", "food", limit=2, cursor=first["next_cursor"])["hits"] == whole["hits"][1:]
    assert client.search("calls", image=paths[2])["hits"][0]["metadata"] == {"name": "third"}
    late = client.search("calls", terms=[{"text": "food", "weight": 2}], wait_s=0)  # by way of its job
    assert [hit["id"] for hit in late["hits"]] == [hit["id"] for hit in whole["hits"]]
    assert client.download(late["hits"][0]["url"]) in {path.read_bytes() for path in paths}
    with pytest.raises(InvalidRequest):
        client.search("calls", filter={"field": "name", "gt": 3}, text="x")
    ranked = client.rank(paths[:2], "a pizza")
    assert len(ranked["order"]) == 2
    assert [ranking["prompt"] for ranking in client.rank(paths[:2], ["a", "b"])["rankings"]] == ["a", "b"]
    labelled = client.classify(["apple", "pizza"], images=paths[:1], top_k=1)
    assert len(labelled["classifications"]) == 1
    moved = client.wait(client.reembed("calls", "emoji-clip").id, timeout_s=PATIENCE_S)
    assert (moved.state, (moved.result or {})["rows"]) == ("succeeded", 3)
    removed = client.wait(client.remove_images("calls", [whole["hits"][0]["id"]]).id, timeout_s=PATIENCE_S)
    assert (removed.result or {})["removed"] == 1
    rest = client.remove_images("calls", filter={"field": "name", "exists": False})
    client.wait(rest.id, timeout_s=PATIENCE_S)
    assert client.collection("calls")["rows"] <= 1
    client.delete_collection("calls")
    with pytest.raises(Missing):
        client.collection("calls")


@pytest.mark.slow
def test_a_newcomer_searches_the_pictures_that_come_along(run: Run, client: DreamqueueClient) -> None:
    assert "openmoji: 1,652 added, 0 updated, 0 unchanged, 0 failed; 1,652 in all" in run("index", "--openmoji").stdout
    answer = client.search("openmoji", "a red heart")
    assert "red heart" in [hit["metadata"]["name"] for hit in answer["hits"][:3]]
    food = client.search("openmoji", "red", filter={"field": "group", "eq": "food & drink"})
    assert {hit["metadata"]["group"] for hit in food["hits"]} == {"food & drink"}
    assert food["matching"] < answer["matching"] == 1_652
    run("collections", "delete", "openmoji", "--yes")


def _in_a_terminal(stack: RunningStack, *words: str) -> str:
    """What a command writes on a terminal of 100 columns that answers no questions."""
    keyboard, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    command = [str(Path(sys.executable).parent / "dreamqueue"), *words, "--url", stack.url, "--key", stack.key]
    env = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=env) as child:
        os.close(terminal)
        said = b""
        with contextlib.suppress(OSError):  # how Linux says that nobody writes there any more
            while piece := os.read(keyboard, 65_536):
                said += piece
    os.close(keyboard)
    assert child.returncode == 0, said.decode()
    return said.decode()


class _web:
    """A folder as a web server has it."""

    def __init__(self, folder: Path) -> None:
        handler = functools.partial(_Quiet, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing of it is worth a line."""
