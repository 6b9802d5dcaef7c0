"""Which index serves by its url, what an object store must do to hold tables, and errors that never stay foreign."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import lancedb
import lancedb.exceptions
import pyarrow as pa
import pytest
import qdrant_client.common.client_exceptions
import qdrant_client.http.exceptions

from deploy.local.servers import free_port
from shared.errors import InvalidInput, VectorsUnavailable, VectorsUnfit
from shared.settings import Settings
from tests.support.s3_stand_in import S3StandIn
from tests.support.vectors import COLUMNS, some_rows
from worker.vectors.database import open_database
from worker.vectors.stores import lance, lance_faults, qdrant
from worker.vectors.stores.bucket import check_conditional_puts
from worker.vectors.stores.lance import LanceDatabase, LanceTable
from worker.vectors.stores.lance_faults import insisting, translated
from worker.vectors.stores.qdrant import QdrantDatabase
from worker.vectors.stores.revisions import Revisions


@pytest.fixture
def s3() -> Iterator[S3StandIn]:
    """A store that honours conditional puts."""
    with S3StandIn("dreamqueue") as store:
        yield store


def test_the_url_says_which_index(tmp_path: Path, s3: S3StandIn) -> None:
    folder = tmp_path / "made" / "vectors"
    assert isinstance(open_database(Settings(vectors_url=str(folder))), LanceDatabase)
    assert folder.is_dir()
    assert isinstance(open_database(Settings(vectors_url="http://127.0.0.1:1")), QdrantDatabase)
    assert isinstance(open_database(Settings(vectors_url="s3://v", s3_endpoint=s3.url)), LanceDatabase)
    with pytest.raises(VectorsUnfit, match="DREAMQUEUE_VECTORS_URL"):
        open_database(Settings(vectors_url=""))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(VectorsUnfit, match="DREAMQUEUE_VECTORS_URL"):
        open_database(Settings(vectors_url=str(tmp_path / "file" / "vectors")))


@pytest.mark.integration
def test_a_store_that_takes_both_puts_is_refused(settings: Settings, objects: object) -> None:
    """nanio, the embedded store: it ignores If-None-Match, and one of two commits made at once would be lost."""
    with pytest.raises(VectorsUnfit, match=r"DREAMQUEUE_VECTORS_URL.*does not honour conditional puts"):
        open_database(settings.model_copy(update={"vectors_url": "s3://vectors"}))


def test_a_store_that_honours_them_is_taken_and_left_clean(s3: S3StandIn) -> None:
    check_conditional_puts(Settings(s3_endpoint=s3.url), "vectors")
    assert s3.objects == {}


def test_a_store_that_is_not_there_is_told() -> None:
    nowhere = Settings(vectors_url="s3://v", s3_endpoint=f"http://127.0.0.1:{free_port()}", s3_timeout_s=0.5)
    with pytest.raises(VectorsUnavailable, match="DREAMQUEUE_VECTORS_URL"):
        open_database(nowhere)


def test_a_table_lives_in_a_bucket(s3: S3StandIn) -> None:
    """Over real HTTP: writes by several threads at once, reads, deletes, tidying, dropping."""
    database = open_database(Settings(vectors_url="s3://some/prefix", s3_endpoint=s3.url))
    table = database.open("one", 8)
    threads = [
        threading.Thread(target=lambda seed=seed: table.put([*some_rows(5, seed=seed), *some_rows(5)], COLUMNS))
        for seed in (1, 2, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(row.id for batch in table.scan(COLUMNS) for row in batch) == sorted(
        row.id for seed in range(4) for row in some_rows(5, seed=seed)
    )
    assert table.delete([some_rows(1)[0].id]) == 1
    table.optimize(is_large=False)
    assert table.count() == 19
    assert table.search(some_rows(2)[1].vector, 1, COLUMNS)[0].row.id == some_rows(2)[1].id
    assert all(key.startswith("some/prefix/one.lance/") for key in s3.objects)
    assert database.tables() == ["one"]
    database.drop("one")
    assert s3.objects == {}


def test_a_qdrant_that_is_not_there_is_unavailable() -> None:
    database = open_database(Settings(vectors_url=f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(VectorsUnavailable, match="Qdrant"):
        database.open("one", 8)
    with pytest.raises(VectorsUnavailable, match="Qdrant"):
        database.tables()


def _errors_in(module: object) -> list[type[BaseException]]:
    found = [getattr(module, name) for name in dir(module)]
    errors = [one for one in found if isinstance(one, type) and issubclass(one, BaseException)]
    return [one for one in errors if one.__module__.split(".")[0] in {"pyarrow", "lancedb", "qdrant_client"}]


@pytest.mark.parametrize(
    ("modules", "foreign"),
    [
        ((pa.lib, lancedb.exceptions), lance_faults.FOREIGN),
        ((qdrant_client.http.exceptions, qdrant_client.common.client_exceptions), qdrant.FOREIGN),
    ],
    ids=["lance", "qdrant"],
)
def test_every_foreign_error_is_translated(modules: tuple[object, ...], foreign: tuple[type[Exception], ...]) -> None:
    known = [error for module in modules for error in _errors_in(module)]
    assert len(known) > 2
    missing = [error for error in known if not issubclass(error, foreign)]
    assert not missing, f"{missing} would leave worker/vectors as they are"


def test_our_own_errors_and_stops_pass_through() -> None:
    for error in (InvalidInput("ours"), KeyboardInterrupt()):
        with pytest.raises(type(error)), translated("testing"):
            raise error


def test_a_panic_of_the_rust_core_is_unavailable() -> None:
    panic = type("PanicException", (BaseException,), {})  # pyo3's own cannot be imported
    with pytest.raises(VectorsUnavailable, match="testing"), translated("testing"):
        raise panic("index out of bounds")


def test_lost_commits_are_tried_again_and_other_faults_are_not() -> None:
    tries: list[int] = []

    def lose_twice() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("lance error: Retryable commit conflict for version 7")
        return len(tries)

    assert insisting(lose_twice) == 3

    def fail() -> None:
        tries.append(1)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        insisting(fail)
    assert len(tries) == 4


def test_tidying_gives_way_to_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conflict that does not end is no error: the next pass joins what this one could not."""
    LanceDatabase(str(tmp_path)).open("busy", 8).put(some_rows(5), COLUMNS)
    real = lancedb.connect(tmp_path).open_table("busy")
    asked: list[str] = []

    class Busy:
        """The real table, whose files others rewrite all the time."""

        def __init__(self, text: str) -> None:
            self._text = text

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def optimize(self, **_: object) -> None:
            asked.append(self._text)
            raise RuntimeError(self._text)

    monkeypatch.setattr(lance, "TIDY_PATIENCE_S", 0.1)
    preempted = Busy("This Rewrite transaction was preempted by concurrent transaction Delete")
    LanceTable(preempted, "busy", 8, Revisions()).optimize(is_large=False)
    assert len(asked) > 1
    with pytest.raises(VectorsUnavailable, match="on fire"):
        LanceTable(Busy("disk on fire"), "busy", 8, Revisions()).optimize(is_large=False)
