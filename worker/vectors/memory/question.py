"""What is asked of a collection, and what is answered."""

from __future__ import annotations

from dataclasses import dataclass

from shared.specs.filters import AnyFilter
from worker.vectors.index import Metadata, Vectors
from worker.vectors.memory.cursors import Place, digest_of, place_in

__all__ = ["Hit", "Page", "Question"]


@dataclass(frozen=True)
class Question:
    """What is searched, and how the answer is cut. `query` has unit length; `asked` says the same for cursors, which
    are good for the same words only."""

    query: Vectors  # (D,)
    limit: int
    filter_: AnyFilter | None = None
    cursor: str | None = None
    min_cosine: float | None = None
    dedup: float | None = None  # a hit whose cosine with a better one is that high is left out
    diversity: float = 0.0  # 0: by cosine; 1: each as far as possible from those before it
    scale: float | None = None  # the model's logit scale: with it a page tells the background
    asked: str = ""

    @property
    def place(self) -> Place | None:
        """Where the page before ended; None for the first one. Raises InvalidInput for a cursor of another question."""
        return place_in(self.cursor, self.digest) if self.cursor else None

    @property
    def digest(self) -> bytes:
        """Of what a cursor of it must agree with."""
        return digest_of(self.asked, self.filter_, self.min_cosine, self.dedup)


@dataclass(frozen=True)
class Hit:
    """One row found."""

    id: str
    cosine: float
    metadata: Metadata
    added_at_ms: int


@dataclass(frozen=True)
class Page:
    """Some hits. `background`: the log of the mean over all rows of exp(scale * cosine), None without a scale."""

    hits: list[Hit]
    matching: int  # rows that passed the filter
    rows: int
    next_cursor: str | None = None
    background: float | None = None
