"""The codebook: nearest code, straight-through gradient, codebook loss.

Source: van den Oord et al., "Neural Discrete Representation Learning" (2017), section 3; the parameter name
`embedding.weight` is taming's. Codes are found by one matrix product and read by a gather, never by a one-hot map.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Quantized(NamedTuple):
    """What quantising gives."""

    latent: Tensor
    """(B, C, h, w): the codes' vectors; gradients pass straight to the input."""
    indices: Tensor
    """(B, h, w) int64 in [0, codes)."""
    loss: Tensor
    """Scalar: codebook term + beta * commitment term."""


class VectorQuantizer(nn.Module):
    """`codes` vectors of `width`; beta weighs the commitment term (the paper's order, not taming's legacy one)."""

    def __init__(self, codes: int, width: int, beta: float = 0.25) -> None:
        super().__init__()
        self.beta = beta
        self.embedding = nn.Embedding(codes, width)
        nn.init.uniform_(self.embedding.weight, -1.0 / codes, 1.0 / codes)

    def nearest(self, latent: Tensor) -> Tensor:
        """Indices (B, h, w) of the codes nearest to `latent` (B, C, h, w) in the Euclidean sense."""
        flat = latent.detach().permute(0, 2, 3, 1).flatten(0, 2).float()  # (Bhw, C)
        codes = self.embedding.weight.detach().float()  # (K, C)
        with torch.autocast(latent.device.type, enabled=False):  # near codes differ by less than bf16 resolves
            scores = torch.addmm(codes.square().sum(1), flat, codes.t(), beta=-0.5)  # (Bhw, K), |z|^2 left out
        batch, _, height, width = latent.shape
        return scores.argmax(1).view(batch, height, width)

    def lookup(self, indices: Tensor) -> Tensor:
        """Vectors (B, C, h, w) of `indices` (B, h, w)."""
        return F.embedding(indices, self.embedding.weight).permute(0, 3, 1, 2)

    def forward(self, latent: Tensor) -> Quantized:
        indices = self.nearest(latent)
        codes = self.lookup(indices)
        loss = F.mse_loss(codes, latent.detach()) + self.beta * F.mse_loss(latent, codes.detach())
        return Quantized(latent + (codes - latent).detach(), indices, loss)
