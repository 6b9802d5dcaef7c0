"""What a sampler's step reads of its rows and sequences, brought to the device once per change, not once per step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from worker.models.dalle.rows import DalleRow
from worker.models.dalle.sampling import Choice
from worker.models.noise import fold


class OwnedSequence(NamedTuple):
    """One sequence of the cache, and the row it is computed for."""

    row: DalleRow
    is_unconditional: bool  # with the empty caption in place of the row's own


def sequences_of(rows: Sequence[DalleRow]) -> list[OwnedSequence]:
    """One of every row, two where it is guided."""
    return [OwnedSequence(row, which) for row in rows for which in (False, True)[: row.sequences]]


@dataclass(slots=True)
class StepInputs:
    """Of B rows and S computed sequences, in the order of the sampler's rows and of the cache."""

    tokens: Tensor  # (B, L) int64
    at: Tensor  # (B,) int64: the place whose code is drawn next
    known: Tensor  # (B,) int64: codes before this place are taken as they are
    choice: Choice
    guidance: Tensor  # (B,)
    keys: Tensor  # (B,) int64, of the noise
    row_of: Tensor  # (S,) int64: the row of every sequence; a spare one repeats the first row
    conditional: Tensor  # (B,) int64: the sequence with the row's caption
    unconditional: Tensor  # (B,) int64: the one with the empty caption; of an unguided row its only one

    @classmethod
    def of(
        cls, rows: Sequence[DalleRow], sequences: Sequence[OwnedSequence], computed: int, device: torch.device
    ) -> StepInputs:
        """`computed`: how many sequences a step computes; those beyond the given ones are spare."""

        def index(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        settings = [row.settings for row in rows]
        conditional, unconditional = _places(rows, sequences)
        place = {id(row): number for number, row in enumerate(rows)}
        row_of = [place[id(sequence.row)] for sequence in sequences]
        return cls(
            tokens=torch.stack([row.tokens for row in rows]).to(device),
            at=index([row.at for row in rows]),
            known=index([row.known for row in rows]),
            choice=Choice.of(settings, device),
            guidance=torch.tensor([one.guidance for one in settings], device=device),
            keys=fold(index([one.seed for one in settings]), index([one.image for one in settings])),
            row_of=index(row_of + [0] * (computed - len(row_of))),
            conditional=index(conditional),
            unconditional=index(unconditional),
        )


def _places(rows: Sequence[DalleRow], sequences: Sequence[OwnedSequence]) -> tuple[list[int], list[int]]:
    """Where every row's two sequences are in the cache."""
    conditional: dict[int, int] = {}
    unconditional: dict[int, int] = {}
    for place, (row, is_unconditional) in enumerate(sequences):
        (unconditional if is_unconditional else conditional)[id(row)] = place
    return (
        [conditional[id(row)] for row in rows],
        [unconditional.get(id(row), conditional[id(row)]) for row in rows],
    )
