"""Captions read once for all rows that draw them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from worker.models.dalle.code_model import CodeModel, Prefill

CAPACITY = 64  # captions whose prefill is kept while the sampler's cache lives

Key = tuple[int, ...]


def key_of(text_ids: Tensor) -> Key:
    """What a caption (T,) is found by."""
    return tuple(text_ids.tolist())


class CaptionCache:
    """Prefills of the captions asked for last. `hits` and `misses` count captions, one for each row that asks."""

    def __init__(self, model: CodeModel, *, is_deterministic: bool) -> None:
        """is_deterministic: each caption is run alone, so that its sums do not depend on those that came with it."""
        self.hits = 0
        self.misses = 0
        self._model = model
        self._device = model.blank.device
        self._is_deterministic = is_deterministic
        self._prefilled: OrderedDict[Key, Prefill] = OrderedDict()

    def get(self, captions: Sequence[Tensor]) -> dict[Key, Prefill]:
        """The prefill of every caption (T,), each once, in the order of their first places."""
        wanted = {key_of(ids): ids for ids in captions}
        missing = [key for key in wanted if key not in self._prefilled]
        self.misses += len(missing)
        self.hits += len(captions) - len(missing)
        size = 1 if self._is_deterministic else max(1, len(missing))
        for begin in range(0, len(missing), size):
            part = missing[begin : begin + size]
            ids = torch.stack([wanted[key] for key in part]).to(self._device)
            self._prefilled.update(zip(part, self._model.prefill(ids).split(), strict=True))
        for key in wanted:
            self._prefilled.move_to_end(key)
        while len(self._prefilled) > max(CAPACITY, len(wanted)):
            self._prefilled.popitem(last=False)
        return {key: self._prefilled[key] for key in wanted}

    def clear(self) -> None:
        """Give their memory back."""
        self._prefilled.clear()
