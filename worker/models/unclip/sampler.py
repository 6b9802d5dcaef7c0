"""unCLIP's two samplings, and from a latent to codes and pictures.

A caption's vector becomes a picture vector by `prior_sampler`; that, or a given picture's own vector, becomes a latent
by `decoder_sampler`, whose cells are then the nearest codes of the VQGAN. Rounding to codes also swallows what batches
of different size differ by in the last bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.models.errors import ShapeError
from worker.models.unclip.diffusion import Denoiser, DiffusionRow, DiffusionSampler, clean_of
from worker.models.unclip.unclip import Unclip
from worker.models.vqgan.vqgan import VQGAN

PRIOR, DECODER = 0, 1  # which of a picture's two noises


def prior_denoiser(unclip: Unclip) -> Denoiser:
    """Conditions are captions' unit vectors; `Unclip.unit` reads the results."""

    def predict(noisy: Tensor, time: Tensor, texts: Tensor, silent: Tensor) -> Tensor:
        return unclip.prior(noisy, time, texts, silent).float()

    return Denoiser(predict, (unclip.config.embedding,), PRIOR)


def prior_sampler(unclip: Unclip, texts: Tensor, rows: Sequence[DiffusionRow]) -> DiffusionSampler:
    """Of captions' unit vectors (B, D), one per row. `picture_vectors` reads the result."""
    unclip.check_vectors("texts", texts)
    _check_count(texts, rows)
    return DiffusionSampler(prior_denoiser(unclip), rows, texts)


@torch.inference_mode()
def picture_vectors(unclip: Unclip, sampler: DiffusionSampler) -> Tensor:
    """Unit vectors (B, D) of a prior's finished rows."""
    return unclip.unit(sampler.rows)


@torch.inference_mode()
def decoder_denoiser(unclip: Unclip, vqgan: VQGAN) -> Denoiser:
    """Conditions are whitened picture vectors. Estimates stay within the range of the VQGAN's codes."""
    config = unclip.config
    least, most = (unclip.whiten_latent(bound[None, :, None, None]) for bound in vqgan.codebook_range())

    def predict(noisy: Tensor, time: Tensor, pictures: Tensor, silent: Tensor) -> Tensor:
        said = unclip.decoder(noisy, time, pictures, silent).float()
        return clean_of(noisy, said, time)

    return Denoiser(predict, (config.channels, config.grid, config.grid), DECODER, (least, most))


def decoder_sampler(unclip: Unclip, vqgan: VQGAN, pictures: Tensor, rows: Sequence[DiffusionRow]) -> DiffusionSampler:
    """Of picture vectors (B, D) of unit length, one per row."""
    unclip.check_vectors("pictures", pictures)
    _check_count(pictures, rows)
    return DiffusionSampler(decoder_denoiser(unclip, vqgan), rows, unclip.whiten(pictures))


@torch.inference_mode()
def codes_of(unclip: Unclip, vqgan: VQGAN, whitened: Tensor) -> Tensor:
    """Codes (B, h, w) nearest to a decoder's rows or estimates (B, C, h, w)."""
    return vqgan.quantize.nearest(unclip.latent(whitened))


def check_fit(unclip: Unclip, vqgan: VQGAN, clip_width: int) -> None:
    """ShapeError where an unCLIP, the VQGAN that decodes for it and its CLIP do not belong together."""
    ours = (unclip.config.grid, unclip.config.channels, unclip.config.embedding)
    theirs = (vqgan.config.grid, vqgan.config.code_width, clip_width)
    if ours != theirs:
        raise ShapeError(f"unCLIP has (grid, channels, vectors) {ours}, its VQGAN and CLIP {theirs}")


def _check_count(vectors: Tensor, rows: Sequence[DiffusionRow]) -> None:
    if len(vectors) != len(rows):
        raise ShapeError(f"{len(vectors)} vectors for {len(rows)} rows")
