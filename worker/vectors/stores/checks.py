"""What no table takes, whichever index holds it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared.errors import InvalidInput, NonFinite
from worker.vectors.index import Columns, Row

__all__ = ["check_rows"]


def check_rows(rows: Sequence[Row], columns: Columns, width: int) -> list[Row]:
    """Each id once, its last row. Raises InvalidInput for a vector of another width and for metadata without a column,
    NonFinite for a vector with NaN or infinity."""
    for row in rows:
        if row.vector.shape != (width,):
            raise InvalidInput(f"a vector of {row.vector.size} numbers cannot go to a table of {width}", field="vector")
        if not np.isfinite(row.vector).all():
            raise NonFinite(f"the vector of {row.id} holds NaN or infinity")
        for name in row.metadata:
            if name not in columns:
                raise InvalidInput(f"the table has no column for the metadata field {name}", field=f"metadata.{name}")
    return list({row.id: row for row in rows}.values())
