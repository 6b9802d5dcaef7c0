"""One LanceDB folder under several processes, as workers of one host share it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from shared.errors import VectorsUnavailable
from tests.support.polling import PATIENCE_S
from tests.support.vector_load import TABLE, WIDTH, run_load
from tests.support.vectors import row_id, some_rows
from worker.vectors.stores.lance import LanceDatabase

SECONDS = float(os.environ.get("VECTOR_LOAD_S", "4"))


@pytest.mark.slow
def test_writers_readers_and_a_deleter_lose_and_double_nothing(tmp_path: Path) -> None:
    verdict = run_load(tmp_path, SECONDS)
    assert not verdict.failures, verdict.failures[0]
    assert (verdict.lost, verdict.doubled) == (0, 0), verdict
    assert verdict.put > 100
    assert verdict.reads > 2
    assert verdict.deleted > 0


@pytest.mark.slow
def test_a_writer_killed_in_mid_put_leaves_whole_batches(tmp_path: Path) -> None:
    rows = 400
    rng = np.random.default_rng()
    for turn in range(3):
        folder = tmp_path / str(turn)
        folder.mkdir()
        code = f"from tests.support.vector_load import put_for_ever; put_for_ever({str(folder)!r}, {rows})"
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.split() == ["begin", "3"]:
                    break
            delay_s = float(rng.uniform(0, 0.03))  # a put takes about that long
            time.sleep(delay_s)
            os.kill(process.pid, signal.SIGKILL)
            said = [line.split() for line in process.stdout]
        done = 3 + sum(word == "done" for word, _ in said)
        table = LanceDatabase(str(folder)).open(TABLE, WIDTH)
        found = Counter(row.id for batch in table.scan({}) for row in batch)
        assert set(found.values()) == {1}, f"killed after {delay_s:.3f} s"
        assert len(found) in {rows * done, rows * (done + 1)}, f"killed after {delay_s:.3f} s"  # the last one in or not
        assert {row_id(f"{turn}-{at}") for turn in range(done) for at in range(rows)} <= set(found)
        table.put(some_rows(5, WIDTH, seed=99), {})
        assert table.count() == len(found) + 5


def test_what_was_opened_before_a_fork_says_so_after_it(tmp_path: Path) -> None:
    code = f"""
import os, sys, warnings
warnings.simplefilter("ignore")
from shared.errors import VectorsUnavailable
from worker.vectors.stores.lance import LanceDatabase
database = LanceDatabase({str(tmp_path)!r})
database.open("one", 2)
child = os.fork()
if child == 0:
    try:
        database.tables()
    except VectorsUnavailable as error:
        print(error, flush=True)
        os._exit(0)
    os._exit(1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    assert "forked" in done.stdout


def test_a_folder_that_is_gone_is_unavailable(tmp_path: Path) -> None:
    table = LanceDatabase(str(tmp_path)).open(TABLE, WIDTH)
    table.put(some_rows(5, WIDTH), {})
    for path in sorted((tmp_path / f"{TABLE}.lance").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for act in (
        table.count,
        table.version,
        table.bytes,
        table.revisions,
        lambda: list(table.scan({})),
        lambda: table.put(some_rows(1, WIDTH), {}),
        lambda: table.known(["img_1"]),
        lambda: table.get(["img_1"], {}),
        lambda: table.delete(["img_1"]),
        lambda: table.search(some_rows(1, WIDTH)[0].vector, 1, {}),
        lambda: table.optimize(is_large=False),
    ):
        with pytest.raises(VectorsUnavailable):
            act()
