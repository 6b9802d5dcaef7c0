"""What the engines of collections share: the model a collection needs, its rows as one matrix, tables as files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from shared.errors import Conflict
from shared.specs.filters import AnyFilter
from worker.engines.collection_access import OpenCollection
from worker.engines.library import ModelLibrary
from worker.vectors.index import Vectors

__all__ = ["check_model", "chosen", "csv_file", "json_file"]


def check_model(library: ModelLibrary, collection: OpenCollection) -> str:
    """The fingerprint of the collection's model as this worker has it. Raises Conflict where the collection holds
    vectors of other weights, ModelUnavailable."""
    record = collection.record
    library.clip(record.model)
    fingerprint = library.describe(record.model)[0].sha256
    if record.fingerprint not in ("", fingerprint):
        raise Conflict(
            f"the collection {record.name} holds vectors of {record.model} with the weights {record.fingerprint[:12]}; "
            f"this worker's are {fingerprint[:12]}: re-embed it"
        )
    return fingerprint


def chosen(collection: OpenCollection, filter_: AnyFilter | None) -> tuple[list[str], Vectors]:
    """Ids and vectors (N, D) of all rows, or of those that match; ordered by id. Raises InvalidInput: too many."""
    if not collection.record.width:
        return [], np.zeros((0, 1), np.float32)
    snapshot = collection.whole()
    mask = snapshot.mask(filter_, collection.record.columns)
    rows = np.arange(snapshot.rows) if mask is None else np.flatnonzero(mask)
    order = sorted(rows.tolist(), key=lambda row: str(snapshot.ids[row]))
    return [str(snapshot.ids[row]) for row in order], snapshot.vectors[order]


def csv_file(columns: Sequence[str], lines: Sequence[Sequence[Any]]) -> tuple[bytes, str]:
    """A file of an output."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(lines)
    return text.getvalue().encode(), "text/csv"


def json_file(value: Any) -> tuple[bytes, str]:
    """A file of an output."""
    return json.dumps(value).encode(), "application/json"
