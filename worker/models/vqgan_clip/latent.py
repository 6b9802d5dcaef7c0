"""What a VQGAN+CLIP run's latent is and what it shows; what one step of it has of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from worker.models.vqgan.vqgan import VQGAN
from worker.models.vqgan_clip.guidance import clamp_with_gradient

INIT = 1  # stream of a seed that the first latent is drawn from
Targets = tuple[Tensor, Tensor, Tensor]
"""(B, P, D) unit vectors, (B, P) weights, (B, P) stops; a row with fewer prompts has weights of 0 behind them."""


class Schedule(NamedTuple):
    """What a step has of its own, of one row or (B,) of all."""

    rate: float | Tensor  # Adam's, its first moment's bias taken out
    bias: float | Tensor  # of its second moment
    smooth: float | Tensor  # weights of the picture's total variation,
    near: float | Tensor  # of the latent's distance from the first one,
    background: float | Tensor  # of the border's distance from white


def latent_of(first: Tensor, grids: Sequence[Tensor], bounds: tuple[Tensor, Tensor]) -> Tensor:
    """The latent (B, C, h, w) that the grids add up to, kept in the codebook's range."""
    size, total = first.shape[2:], first
    for grid in grids:
        fits = grid.shape[2:] == size
        total = total + (grid if fits else F.interpolate(grid, size, mode="bilinear", align_corners=False))
    return clamp_with_gradient(total, *bounds)


def picture_of(vqgan: VQGAN, latent: Tensor, quantize: bool) -> Tensor:
    """(B, 3, H, W) in [0, 1], with gradient; `quantize` decodes the nearest codes, straight-through."""
    latent = latent.to(vqgan.quantize.embedding.weight.dtype)
    if quantize:
        codes = vqgan.quantize.lookup(vqgan.quantize.nearest(latent))
        latent = latent + (codes - latent).detach()
    return clamp_with_gradient(vqgan.decode(latent).float().add(1).div(2), 0.0, 1.0)
