"""One picture under way: how it is drawn, and the codes it has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.models.dalle.sampling import check_settings
from worker.models.errors import ShapeError, check_shape
from worker.models.noise import check_seed


@dataclass(frozen=True, slots=True)
class RowSettings:
    """How one picture is drawn."""

    seed: int
    image: int  # which of the job's pictures this is; with the seed it fixes the noise
    temperature: float = 1.0  # 0 takes the likeliest code at every place
    top_k: int = 256  # 0 keeps all codes
    top_p: float = 1.0
    guidance: float = 3.0  # 1 leaves the conditional logits as they are

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_settings(self.temperature, self.top_k, self.top_p, self.guidance)


class DalleRow:
    """One picture under way. `tokens` (L,) int64, on the CPU, holds its codes; the first `known` of them are there."""

    def __init__(self, settings: RowSettings, text_ids: Tensor, length: int, prefix: Tensor | None = None) -> None:
        """text_ids (T,), prefix (N,) int64 with N below `length`."""
        self.settings = settings
        self.text_ids = text_ids.cpu()
        self.tokens = torch.zeros(length, dtype=torch.int64)
        self.known = 0
        self.at = 0  # where its sequences stand in the sampler; behind `known` only while they are taken again
        self.is_finite = True
        if prefix is not None:
            check_shape("prefix", prefix, (None,))
            if len(prefix) >= length:
                raise ShapeError(f"prefix of {len(prefix)} codes leaves nothing to sample of {length}")
            self.tokens[: len(prefix)] = prefix
            self.known = len(prefix)

    @property
    def done(self) -> bool:
        """True once every code is there."""
        return self.known >= len(self.tokens)

    @property
    def sequences(self) -> int:
        """How many of the cache it takes."""
        return 1 if self.settings.guidance == 1.0 else 2
