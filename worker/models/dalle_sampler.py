"""A batch of pictures sampled code by code, one step at a time, for whoever drives it.

The driver calls `step()` until it returns True, looks between steps whether to stop, and may ask for `preview_ids()`
at any time. Rows carry their own settings, seed and image index; a row's codes do not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.models.dalle import PAD, Dalle
from worker.models.errors import ShapeError, check_ids, check_shape
from worker.models.noise import check_seed
from worker.models.sampling import check_settings, guide, gumbel_noise, sample_tokens
from worker.models.vqgan import VQGAN


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


class DalleSampler:
    """text_ids (B, T) int64, one RowSettings per row, optionally the first codes (B, N) of every picture.

    With any guidance other than 1, the model runs 2B rows: captions first, then as many empty captions.
    """

    def __init__(
        self, dalle: Dalle, text_ids: Tensor, rows: Sequence[RowSettings], prefix: Tensor | None = None
    ) -> None:
        check_shape("text_ids", text_ids, (len(rows), dalle.config.text_length))
        device = dalle.padding.device
        self.dalle = dalle
        self.batch = len(rows)
        self.length = dalle.config.image_length
        self.guided = any(row.guidance != 1.0 for row in rows)
        self.seed = torch.tensor([row.seed for row in rows], dtype=torch.int64, device=device)
        self.image = torch.tensor([row.image for row in rows], dtype=torch.int64, device=device)
        self.temperature = torch.tensor([row.temperature for row in rows], device=device)
        self.top_k = torch.tensor([row.top_k for row in rows], dtype=torch.int64, device=device)
        self.top_p = torch.tensor([row.top_p for row in rows], device=device)
        self.guidance = torch.tensor([row.guidance for row in rows], device=device)
        self.tokens = torch.zeros(self.batch, self.length, dtype=torch.int64, device=device)
        self.first = 0 if prefix is None else self._take(prefix.to(device))
        self.position = self.first
        text = text_ids.to(device)
        self.text = torch.cat([text, torch.full_like(text, PAD)]) if self.guided else text
        self.cache = dalle.new_cache(self.text.shape[0])

    def _take(self, prefix: Tensor) -> int:
        check_shape("prefix", prefix, (self.batch, None))
        check_ids("prefix", prefix, self.dalle.config.image_vocab)
        if prefix.shape[1] >= self.length:
            raise ShapeError(f"prefix of {prefix.shape[1]} codes leaves nothing to sample of {self.length}")
        self.tokens[:, : prefix.shape[1]] = prefix
        return prefix.shape[1]

    @property
    def done(self) -> bool:
        """True once every code is sampled."""
        return self.position >= self.length

    @property
    def fraction(self) -> float:
        """Share of the codes that are there, 0 to 1."""
        return self.position / self.length

    def _both(self, ids: Tensor) -> Tensor:
        return torch.cat([ids, ids]) if self.guided else ids

    def _logits(self) -> Tensor:
        known = self.tokens[:, : self.position]
        if self.position == self.first:
            prefix = self._both(known) if self.position else None
            return self.dalle.prefill(self.text, self.cache, prefix)
        return self.dalle.step(self._both(known[:, -1]), self.position - 1, self.cache)

    @torch.inference_mode()
    def step(self) -> bool:
        """Sample one code of every row; True when that was the last. Does nothing once done."""
        if self.done:
            return True
        logits = self._logits().float()
        if self.guided:
            logits = guide(logits[: self.batch], logits[self.batch :], self.guidance)
        noise = gumbel_noise(self.seed, self.image, self.position, logits.shape[1])
        self.tokens[:, self.position] = sample_tokens(logits, self.temperature, self.top_k, self.top_p, noise)
        self.position += 1
        return self.done

    def preview_ids(self, blank: Tensor) -> Tensor:
        """Codes (B, grid, grid) with the places not yet sampled taken from `blank` (grid * grid,) or (grid, grid)."""
        grid = self.dalle.config.grid
        place = torch.arange(self.length, device=self.tokens.device)
        ids = torch.where(place < self.position, self.tokens, blank.to(self.tokens.device).flatten())
        return ids.view(self.batch, grid, grid)


@torch.inference_mode()
def blank_ids(vqgan: VQGAN, level: float = 1.0) -> Tensor:
    """Codes (grid, grid) of a plain picture of one grey `level` in [-1, 1]: what previews show of unsampled places."""
    side = vqgan.config.resolution
    weight = vqgan.quantize.embedding.weight
    plain = torch.full((1, 3, side, side), level, device=weight.device, dtype=weight.dtype)
    return vqgan.quantize.nearest(vqgan.encode(plain))[0]


@torch.inference_mode()
def decode_ids(vqgan: VQGAN, ids: Tensor) -> Tensor:
    """Pictures (B, 3, H, W), float32 in [0, 1], of code ids (B, grid * grid) or (B, grid, grid)."""
    side = vqgan.config.grid
    images = vqgan.decode_indices(ids.reshape(-1, side, side))
    return images.float().add(1.0).div(2.0).clamp(0.0, 1.0)
