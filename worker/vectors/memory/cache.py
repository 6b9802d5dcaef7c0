"""Tables in memory, exact, for the worker that searches them: bounded, and as new as the collection's record says.

A refresh reads the revisions of all rows, takes the exact difference to what is held, and reads only new rows.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from shared.errors import VectorsUnavailable
from worker.vectors.index import Columns, Row, VectorTable
from worker.vectors.memory.snapshot import ID_BYTES, Snapshot

__all__ = ["CachedTable", "Caches"]

MAX_AGE_S = 5.0  # the table's own version is asked for at least so often, in case a change was not noted on the record
TRIES = 3  # reads of a table that is being written, before all of it is read again
PIECE_ROWS = 65_536  # read from the table before they are joined to the others


@dataclass(frozen=True)
class CachedTable:
    """One table in memory, for metrics."""

    table: str
    rows: int
    bytes: int
    changes: int  # the collection's count of changes that it holds, at least
    age_s: float  # since it was last compared with the table


@dataclass
class _Entry:
    """One table's place. `lock` is held by the thread that refreshes it; others wait for that."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    snapshot: Snapshot | None = None
    version: int = -1  # of the table, before the snapshot was taken
    changes: int = -1
    checked_at: float = 0.0


class Caches:
    """Snapshots by table. Thread-safe; whoever has a snapshot may read it as long as it likes.

    `limit_bytes`: of all together; the one unused for longest goes first. `max_rows`: a larger table is not held.
    """

    def __init__(self, limit_bytes: int, max_rows: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_bytes = limit_bytes
        self._max_rows = max_rows
        self._clock = clock
        self._lock = threading.Lock()  # of the order of entries, never held during a read
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # the one used last is last

    def of(self, name: str, table: VectorTable, columns: Columns, changes: int) -> Snapshot | None:
        """The table's rows, with all that the first `changes` changes of its collection did. None where it is not to be
        held: its server answers by itself, or it is too large; then search the table. Raises VectorsUnavailable."""
        if not table.is_local:
            return None
        with self._lock:
            entry = self._entries.setdefault(name, _Entry())
            self._entries.move_to_end(name)
        with entry.lock:
            if not self._is_fresh(entry, columns, changes):
                self._refresh(entry, table, columns, changes)
            snapshot = entry.snapshot
        if snapshot is None:
            self.drop(name)
        else:
            self._make_room(name)
        return snapshot

    def copy(self, table: VectorTable, columns: Columns) -> Snapshot | None:
        """A table's rows for once, not kept; None where they are too many. Raises VectorsUnavailable."""
        return self._read(None, table, columns)

    def drop(self, name: str) -> None:
        """Forget a table."""
        with self._lock:
            self._entries.pop(name, None)

    def cached(self) -> list[CachedTable]:
        """What is in memory now, the longest unused first."""
        now = self._clock()
        with self._lock:
            entries = [(name, entry, entry.snapshot) for name, entry in self._entries.items()]
        return [
            CachedTable(name, snapshot.rows, snapshot.bytes, entry.changes, now - entry.checked_at)
            for name, entry, snapshot in entries
            if snapshot is not None
        ]

    def _is_fresh(self, entry: _Entry, columns: Columns, changes: int) -> bool:
        snapshot = entry.snapshot
        return (
            snapshot is not None
            and entry.changes >= changes
            and _reads(snapshot, columns)
            and self._clock() - entry.checked_at < MAX_AGE_S
        )

    def _refresh(self, entry: _Entry, table: VectorTable, columns: Columns, changes: int) -> None:
        snapshot = entry.snapshot
        if snapshot is not None and not _reads(snapshot, columns):
            snapshot = None  # it was read without a field that there is by now
        try:
            version = table.version()
            if snapshot is None or version != entry.version:
                snapshot = self._read(snapshot, table, columns)
        except VectorsUnavailable:
            if snapshot is None or entry.changes < changes:
                raise  # otherwise the vectors in memory are as new as the caller needs
            version = entry.version
        entry.snapshot, entry.version, entry.checked_at = snapshot, version, self._clock()
        entry.changes = max(entry.changes, changes)

    def _read(self, old: Snapshot | None, table: VectorTable, columns: Columns) -> Snapshot | None:
        rows = table.count()
        if rows > self._max_rows or rows * (table.width * 4 + ID_BYTES) > self._limit_bytes:
            return None
        if old is not None and (newer := _difference(old, table)) is not None:
            return newer
        snapshot = Snapshot.empty(table.width, columns)
        piece: list[Row] = []
        for batch in table.scan(columns):
            piece += batch
            if len(piece) >= PIECE_ROWS:
                snapshot, piece = snapshot.changed(None, piece), []
        return snapshot.changed(None, piece)

    def _make_room(self, used: str) -> None:
        """Forget the longest unused ones until the rest fit; never the one that was just used."""
        with self._lock:
            sizes = {name: entry.snapshot.bytes for name, entry in self._entries.items() if entry.snapshot is not None}
            total = sum(sizes.values())
            for name in [name for name in self._entries if name != used]:
                if total <= self._limit_bytes:
                    return
                total -= sizes.get(name, 0)
                del self._entries[name]


def _reads(snapshot: Snapshot, columns: Columns) -> bool:
    """Whether all these fields were looked for when it was read."""
    return all(snapshot.columns.get(name) == column for name, column in columns.items())


def _difference(old: Snapshot, table: VectorTable) -> Snapshot | None:
    """The old one with what changed since; None where the revisions cannot tell."""
    for _ in range(TRIES):
        there = np.sort(table.revisions())
        if (there[1:] == there[:-1]).any():
            return None  # two writers drew the same revision, so it names no row
        at = np.minimum(np.searchsorted(there, old.revisions), max(len(there) - 1, 0))
        is_there = there[at] == old.revisions if len(there) else np.zeros(old.rows, bool)
        is_new = np.ones(len(there), bool)
        is_new[at[is_there]] = False
        missing = there[is_new]
        new = [row for batch in table.scan(old.columns, revisions=missing) for row in batch]
        if len(new) == len(missing):  # fewer: rows were replaced or removed between the two reads; try again
            return old.changed(~is_there, new)
    return None
