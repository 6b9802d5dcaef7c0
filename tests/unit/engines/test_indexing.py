"""Indexing without a worker: what is counted when, and what one picture's error does to the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
from PIL import Image

from shared.errors import Cancelled, InvalidInput, NonFinite, UnreadableImage
from shared.records.collection import Collection
from shared.specs.clip import IndexSpec
from shared.specs.filters import Column, FieldType
from worker.engines.collection_access import Loaded, OpenCollection, TenantCollections
from worker.engines.embedding.embedder import Embedder
from worker.engines.options import SearchEvents
from worker.engines.search.indexing import CHUNK, Indexed, Indexing
from worker.engines.search.stages import StageClock
from worker.vectors.index import Row

SPEC = IndexSpec(collection="c", job="6f1f0a3e-0000-4000-8000-000000000001")
RECORD = Collection("t", "c", "id-1", "table", "clip", "", 0, 0, 0, 0, 0, 0, 0)


@dataclass
class Table:
    """Rows in a dict."""

    rows: dict[str, Row] = field(default_factory=dict)

    def get(self, ids: Sequence[str], _columns: Mapping[str, Column]) -> dict[str, Row]:
        return {id_: self.rows[id_] for id_ in ids if id_ in self.rows}


@dataclass
class Opened:
    """A collection whose field `n` is a number."""

    table: Table = field(default_factory=Table)
    record: Collection = RECORD
    notes: int = 0

    def bind(self, _fingerprint: str, _width: int, fields: Mapping[str, FieldType]) -> None:
        if fields.get("n", "number") != "number":
            raise InvalidInput("n holds a number", field="metadata.n")

    def put(self, rows: Sequence[Row]) -> None:
        self.table.rows.update((row.id, row) for row in rows)

    def noted(self) -> None:
        self.notes += 1


@dataclass(frozen=True)
class Source:
    """Picture number `number`; `error` instead of it."""

    number: int
    error: Exception | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def item(self) -> str:
        return f"images.{self.number}"

    def load(self) -> Loaded:
        if self.error:
            raise self.error
        return Loaded(f"img_{self.number:064d}", Image.new("RGB", (9, 9), (self.number % 256, 0, 0)), b"")


@dataclass
class Stock:
    """A tenant's collections."""

    given: Sequence[Source]
    kept: list[str] = field(default_factory=list)

    def sources(self, _spec: IndexSpec) -> Sequence[Source]:
        return self.given

    def keep(self, loaded: Loaded) -> None:
        self.kept.append(loaded.id)


class Eyes:
    """An embedder: red pictures of 13 are no numbers."""

    def side_px(self, _model: str) -> int:
        return 4

    def images(self, _model: str, images: Sequence[Image.Image], _context: Any) -> torch.Tensor:
        assert all(image.size == (4, 4) for image in images)
        if any(image.getpixel((0, 0)) == (13, 0, 0) for image in images):
            raise NonFinite("NaN")
        return torch.ones(len(images), 2)


@dataclass
class Watch:
    """A monitor that stops the run at its `stop_at`-th check."""

    stop_at: int = 10**9
    checks: int = 0
    saved: list[tuple[int, bytes]] = field(default_factory=list)

    def check(self) -> None:
        self.checks += 1
        if self.checks >= self.stop_at:
            raise Cancelled("enough")

    def progress(self, *_: Any) -> None:
        self.check()

    def snapshot(self, step: int, make: Any) -> None:
        self.saved.append((step, make()))

    def resumed(self, _step: int) -> None:
        """Not looked at."""


def indexing(stock: Stock, opened: Opened) -> Indexing:
    return Indexing(
        cast(TenantCollections, stock), cast(OpenCollection, opened), cast(Embedder, Eyes()), "f", 2,
        StageClock("index", SearchEvents()),
    )  # fmt: skip


def test_errors_are_the_pictures_own_and_everything_is_counted_once() -> None:
    given = [Source(number) for number in range(300)]
    given[5] = Source(5, UnreadableImage("broken"))
    given[13] = Source(13)  # NaN
    given[20] = Source(20, metadata={"n": "text"})
    given[299] = Source(7)  # the same content again, in another chunk
    stock, opened, indexed, watch = Stock(given), Opened(), Indexed("id-1"), Watch()
    assert indexing(stock, opened).run(SPEC, indexed, cast(Any, watch)) == 300
    assert (indexed.done, indexed.added, indexed.unchanged, len(indexed.errors)) == (300, 295, 1, 4)
    assert {error["item"]: error["code"] for error in indexed.errors} == {
        "images.5": "unreadable_image", "images.13": "non_finite", "images.20": "invalid_input",
        "images.269": "non_finite",
    }  # fmt: skip
    assert set(opened.table.rows) < set(stock.kept) | {""}
    assert opened.notes == 1
    assert [step for step, _ in watch.saved] == [CHUNK, 2 * CHUNK, 300]


@pytest.mark.parametrize("stop_at", [2, 40, 150, 200, 330, 400])
def test_a_stopped_run_counts_whole_chunks_and_goes_on_behind_them(stop_at: int) -> None:
    given = [Source(number, UnreadableImage("x") if number % 2 else None) for number in range(300)]
    opened, indexed, watch = Opened(), Indexed("id-1"), Watch(stop_at)
    with pytest.raises(Cancelled):
        indexing(Stock(given), opened).run(SPEC, indexed, cast(Any, watch))
    assert indexed.done == indexed.added + indexed.unchanged + len(indexed.errors)
    assert indexed.done % CHUNK == 0
    saved = watch.saved[-1][1] if watch.saved else None
    again = Indexed.resumed(saved, "id-1")
    assert again.done == indexed.done
    indexing(Stock(given), opened).run(SPEC, again, cast(Any, Watch()))
    assert again.added + again.unchanged == 150
    assert len(again.errors) == 150
    assert len({error["item"] for error in again.errors}) == 150
    assert len(opened.table.rows) == 150


def test_another_collection_of_the_same_name_is_begun_anew() -> None:
    saved = Indexed("id-1", done=128, added=128).saved()
    assert Indexed.resumed(saved, "id-1").done == 128
    assert Indexed.resumed(saved, "id-2") == Indexed("id-2")
    assert Indexed.resumed(b"{]", "id-2") == Indexed("id-2")
    assert Indexed.resumed(b'{"what": 1}', "id-2") == Indexed("id-2")
