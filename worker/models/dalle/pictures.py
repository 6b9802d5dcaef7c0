"""Pictures of codes, whole or in part, by the VQGAN that they were drawn for."""

from __future__ import annotations

import torch
from torch import Tensor

from worker.models.vqgan.vqgan import VQGAN


def preview_ids(codes: Tensor, blank: Tensor) -> Tensor:
    """(grid, grid): the codes (N,) that are there, and for the rest those of `blank` (grid, grid)."""
    return torch.cat([codes, blank.flatten()[len(codes) :].to(codes.device)]).view(blank.shape)


@torch.inference_mode()
def blank_ids(vqgan: VQGAN, level: float = 1.0) -> Tensor:
    """Codes (grid, grid) of a plain picture of one grey `level` in [-1, 1]: what previews show of unsampled places.

    A VQGAN that cannot read pictures gives its last code everywhere, as min-dalle does.
    """
    grid, side = vqgan.config.grid, vqgan.config.resolution
    if not vqgan.config.encodes:
        last = vqgan.config.codes - 1
        return torch.full((grid, grid), last, device=vqgan.quantize.embedding.weight.device)
    weight = vqgan.quantize.embedding.weight
    plain = torch.full((1, 3, side, side), level, device=weight.device, dtype=weight.dtype)
    return vqgan.quantize.nearest(vqgan.encode(plain))[0]


@torch.inference_mode()
def decode_ids(vqgan: VQGAN, ids: Tensor) -> Tensor:
    """Pictures (B, 3, H, W), float32 in [0, 1], of code ids (B, grid * grid) or (B, grid, grid)."""
    side = vqgan.config.grid
    images = vqgan.decode_indices(ids.reshape(-1, side, side))
    return images.float().add(1.0).div(2.0).clamp(0.0, 1.0)
