"""What is usual for a model, and how a background is told from it: one formula for fitting and for searching."""

from __future__ import annotations

import math

__all__ = ["ASSUMED_ROWS", "blended"]

ASSUMED_ROWS = 1_000  # pictures of the usual kind that every collection is taken to hold beside its own


def blended(background: float, rows: int, usual: float) -> float:
    """The log-mean-exp of a query's logits over a collection of `rows`, `background`, and over ASSUMED_ROWS whose own
    is `usual`. Without these a picture would be compared with hardly anything but itself where there are few."""
    top = max(background, usual)
    total = rows * math.exp(background - top) + ASSUMED_ROWS * math.exp(usual - top)
    return top + math.log(total / (rows + ASSUMED_ROWS))
