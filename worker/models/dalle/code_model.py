"""What a picture-by-codes transformer offers to whoever batches sequences; one protocol, two forms.

Decoder-only (worker.models.dalle.dalle): the caption is the head of the sequence, so its keys and values lie before the
codes' own. Encoder-decoder (worker.models.dalle.dalle_bart): the caption's keys and values are read by cross-attention
and never change. In both a caption is run once (`prefill`), handed to as many rows as draw it (`place`), and every row
then takes one code a `step` at its own position, in a cache that is made once and written in place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

# Attention reads slots in multiples of this. On a CPU a row's result is then the same to the last bit, however many
# masked slots follow: whole AVX-512 vectors (measured: of 21, 32 and 256 slots only the first differs).
BLOCK = 16


def in_blocks(slots: int) -> int:
    """`slots`, at least 1, rounded up to whole blocks."""
    return -(-max(slots, 1) // BLOCK) * BLOCK


@dataclass(slots=True)
class Prefill:
    """P distinct captions, run; shared by all rows that draw them."""

    keys: Tensor  # (layers, P, heads, T, d): of the text's own positions, or for cross-attention
    values: Tensor  # the same
    seen: Tensor  # (P, T) bool: text positions that may be attended
    start: Tensor | None = None  # (P, W): what position 0 is fed where that depends on the caption (decoder-only)

    def split(self) -> list[Prefill]:
        """Each caption's own; none keeps the others' memory."""
        starts = [None] * len(self.seen) if self.start is None else [row.clone() for row in self.start.split(1)]
        parts = zip(self.keys.split(1, 1), self.values.split(1, 1), self.seen.split(1), starts, strict=True)
        return [Prefill(keys.clone(), values.clone(), seen.clone(), start) for keys, values, seen, start in parts]


@dataclass(slots=True)
class SequenceCache:
    """The state of B sequences. A row can be handed to another sequence: `place` erases what it held, since a number
    that is no number would come through any mask."""

    keys: Tensor  # (layers, B, heads, length, d)
    values: Tensor  # the same
    cross_keys: Tensor | None = None  # (layers, B, heads, T, d): encoder-decoder form only
    cross_values: Tensor | None = None  # the same
    cross_seen: Tensor | None = None  # (B, T) bool
    start: Tensor | None = None  # (B, W): decoder-only form only
    text_live: list[int] = field(default_factory=list)  # per row, how many text positions reach to its last seen one

    @property
    def batch(self) -> int:
        """Rows."""
        return self.keys.shape[1]

    @property
    def bytes_per_sequence(self) -> int:
        """Memory of one row, all layers; a cache of one row tells what each of many will take."""
        tensors = (self.keys, self.values, self.cross_keys, self.cross_values, self.cross_seen, self.start)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None) // self.batch

    def text_read(self, rows: int) -> int:
        """Text positions that cross-attention reads for the first `rows` rows, in whole blocks.

        It changes when rows are placed or moved, never in a step: a captured graph holds for one value of it.
        """
        return in_blocks(max(self.text_live[:rows], default=1))


class CodeModel(Protocol):
    """Rows of codes, drawn one code a step."""

    @property
    def text_length(self) -> int:
        """Text positions T."""

    @property
    def image_length(self) -> int:
        """Codes of a picture, grid * grid in raster order."""

    @property
    def image_vocab(self) -> int:
        """Codes that may be sampled; ids above it are the model's own."""

    @property
    def grid(self) -> int:
        """Codes along one side."""

    @property
    def guidance(self) -> float:
        """Scale where the job names none."""

    @property
    def blank(self) -> Tensor:
        """(T,) int64 on the model's device: the caption of the unconditional branch."""

    def new_cache(self, sequences: int, dtype: torch.dtype | None = None) -> SequenceCache:
        """An empty cache on the model's device, of the weights' dtype unless told otherwise."""

    def prefill(self, text_ids: Tensor) -> Prefill:
        """Run distinct captions (P, T) int64. ShapeError, RangeError on ids that the model does not know."""

    def place(self, cache: SequenceCache, slots: Tensor, prefill: Prefill, which: Tensor) -> None:
        """Begin sequences: row slots[i] draws caption which[i]; both (n,) int64, several rows may share a caption."""

    def fill(self, codes: Tensor, cache: SequenceCache, slots: Tensor) -> None:
        """Read codes (n, N) that are known already, N at least 1, into rows `slots` (n,) that were placed.

        They stand at position N then, and the next step feeds the last of these codes.
        """

    def step(self, codes: Tensor, position: Tensor, cache: SequenceCache, seen: int) -> Tensor:
        """Logits (S, image_vocab) of code number `position` (S,) int64, for the first S rows of the cache.

        `codes` (S,) int64 is code number position - 1; where position is 0 it is ignored. `seen` is the largest
        position plus one, or more: attention reads no slot beyond it. Values are not checked: it would read the device.
        """

    def move(self, cache: SequenceCache, source: Tensor, target: Tensor) -> None:
        """Copy whole rows source[i] to target[i], both (n,) int64; all are read before any is written."""


class ConfiguredSizes:
    """CodeModel's sizes, as a model's configuration names them in both forms."""

    config: Any

    @property
    def text_length(self) -> int:
        """Text positions T."""
        return int(self.config.text_length)

    @property
    def image_length(self) -> int:
        """Codes of a picture."""
        return int(self.config.grid**2)

    @property
    def image_vocab(self) -> int:
        """Codes that may be sampled."""
        return int(self.config.image_vocab)

    @property
    def grid(self) -> int:
        """Codes along one side."""
        return int(self.config.grid)

    @property
    def guidance(self) -> float:
        """Scale where the job names none."""
        return float(self.config.guidance)
