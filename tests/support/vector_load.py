"""Several processes at one LanceDB folder, and the verdict: which rows were lost or doubled, which reads failed."""

from __future__ import annotations

import itertools
import multiprocessing
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shared.specs.filters import Column, Condition
from tests.support.polling import PATIENCE_S
from tests.support.vectors import row_id, some_rows
from worker.vectors.index import VectorTable
from worker.vectors.memory.cache import Caches
from worker.vectors.stores.lance import LanceDatabase

__all__ = ["TABLE", "Verdict", "put_for_ever", "run_load"]

TABLE = "load"
WIDTH = 32
COLUMNS = {"kind": Column("string", 0)}
DOOMED = Condition(field="kind", eq="doomed")
BATCH = 20  # rows of each sort in one put
LEAST_TURNS = 3  # of every role, however slow the machine


@dataclass(frozen=True)
class Verdict:
    """What a load left behind."""

    put: int  # rows whose put was answered, and that nobody was to delete
    lost: int
    doubled: int
    failures: list[str]  # of any process
    reads: int
    deleted: int


def run_load(folder: Path, seconds: float) -> Verdict:
    """Two writers, two readers, one deleter for so long; then all rows are counted."""
    LanceDatabase(str(folder)).open(TABLE, WIDTH)
    roles: list[Callable[..., dict[str, Any]]] = [_write, _write, _read, _read, _delete]
    with ProcessPoolExecutor(len(roles), mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_run, role, folder, number, seconds) for number, role in enumerate(roles)]
        told = [future.result() for future in futures]
    table = LanceDatabase(str(folder)).open(TABLE, WIDTH)
    last = table.delete_where(DOOMED, COLUMNS)
    ids = [row.id for batch in table.scan(COLUMNS) for row in batch]
    wanted = set(itertools.chain(*(one.get("kept", []) for one in told)))
    doomed = sum(one.get("doomed", 0) for one in told)
    deleted = last + sum(one.get("deleted", 0) for one in told)
    surplus = len(ids) - len(set(ids)) + len(set(ids) - wanted)
    return Verdict(
        put=len(wanted),
        lost=len(wanted - set(ids)) + max(0, doomed - deleted),
        doubled=surplus + max(0, deleted - doomed),
        failures=[one["failure"] for one in told if "failure" in one],
        reads=sum(one.get("reads", 0) for one in told),
        deleted=deleted,
    )


def _run(role: Callable[..., dict[str, Any]], folder: Path, number: int, seconds: float) -> dict[str, Any]:
    """One process: waits until all are there."""
    try:
        table = LanceDatabase(str(folder)).open(TABLE, WIDTH)
        (folder / f"ready-{number}").touch()
        until = time.monotonic() + PATIENCE_S
        while len(list(folder.glob("ready-*"))) < 5:
            if time.monotonic() > until:
                raise TimeoutError("the other processes did not come")
            time.sleep(0.01)
        return role(table, number, time.monotonic() + seconds)
    except BaseException:
        return {"failure": traceback.format_exc()}


def _write(table: VectorTable, number: int, until: float) -> dict[str, Any]:
    """New rows of its own, rows that the other writer puts at the same time, and rows that are to go."""
    kept: list[str] = []
    doomed = 0
    turn = 0
    while turn < LEAST_TURNS or time.monotonic() < until:
        rows = some_rows(2 * BATCH, WIDTH, seed=turn)
        own = [replace(row, id=row_id(f"{number}-{turn}-{at}")) for at, row in enumerate(rows[:BATCH])]
        both = [replace(row, id=row_id(f"both-{turn}-{at}")) for at, row in enumerate(rows[BATCH:])]
        gone = [
            replace(row, id=row_id(f"doomed-{number}-{turn}-{at}"), metadata={"kind": "doomed"})
            for at, row in enumerate(rows[:BATCH])
        ]
        table.put([*own, *both], COLUMNS)
        kept += [row.id for row in [*own, *both]]
        table.put(gone, COLUMNS)
        doomed += len(gone)
        if number == 0 and turn % 25 == 24:
            table.optimize(is_large=False)
        turn += 1
    return {"kept": kept, "doomed": doomed}


def _delete(table: VectorTable, number: int, until: float) -> dict[str, Any]:
    """By filter and by id in turns."""
    deleted = 0
    while time.monotonic() < until:
        deleted += table.delete_where(DOOMED, COLUMNS)
        found = [one.row.id for one in table.search(some_rows(1, WIDTH)[0].vector, 30, COLUMNS, DOOMED)]
        deleted += table.delete(found)
    return {"deleted": deleted}


def _read(table: VectorTable, number: int, until: float) -> dict[str, Any]:
    """Through a cache and from the table. A row that was seen and is not doomed stays."""
    caches = Caches(2**30, 10**9)
    seen: set[str] = set()
    for reads in itertools.count(1):
        snapshot = caches.of(TABLE, table, COLUMNS, reads)
        assert snapshot is not None
        ids = snapshot.ids.tolist()
        assert len(set(ids)) == len(ids), f"{len(ids) - len(set(ids))} rows are there twice"
        mask = snapshot.mask(DOOMED, COLUMNS)
        assert mask is not None
        lasting = set(snapshot.ids[~mask])
        assert seen <= lasting, f"{len(seen - lasting)} rows were there and are not any more"
        seen = lasting
        found = table.search(some_rows(1, WIDTH)[0].vector, 10, COLUMNS)
        assert len(found) >= min(10, len(lasting))
        if reads >= LEAST_TURNS and time.monotonic() > until:
            return {"reads": reads}
    raise AssertionError


def put_for_ever(folder: str, rows: int) -> None:
    """Put batch after batch, and say after each one that it is in. For a process to be killed in it."""
    table = LanceDatabase(folder).open(TABLE, WIDTH)
    for turn in itertools.count():
        batch = some_rows(rows, WIDTH, seed=turn)
        print(f"begin {turn}", flush=True)  # noqa: T201 - its parent reads it
        table.put([replace(row, id=row_id(f"{turn}-{at}")) for at, row in enumerate(batch)], {})
        print(f"done {turn}", flush=True)  # noqa: T201
