"""Choosing the next token: guidance, temperature, top-k, top-p, and noise that depends on the picture alone.

Sources: Ho and Salimans, "Classifier-Free Diffusion Guidance" (2022) for the mix, applied to logits as in
Gafni et al., "Make-A-Scene" (2022), section 3.4; Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020)
for top-p; the Gumbel-max trick for drawing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worker.models.errors import RangeError, check_shape
from worker.models.noise import fold, gumbel

GREEDY = 1e-4  # a temperature below this takes the likeliest token


def guide(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """uncond + scale * (cond - uncond), logits (B, V), scale (B,)."""
    return unconditional + scale[:, None] * (conditional - unconditional)


def gumbel_noise(seed: Tensor, image: Tensor, step: Tensor | int, vocab: int) -> Tensor:
    """Noise (B, vocab) that depends on each row's (seed, image index, step) only.

    seed, image: (B,) int64; step: one number or (B,) int64. The same on every batch, order and device kind.
    """
    return gumbel(fold(fold(seed, image), step), vocab)


def sample_tokens(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, noise: Tensor) -> Tensor:
    """Tokens (B,) int64, every row by its own settings.

    logits, noise: (B, V). temperature (B,): 0 takes the likeliest. top_k (B,) int64: 0 keeps all. top_p (B,) in (0, 1]:
    keeps the fewest tokens whose probability reaches it. Order: temperature, top-k, top-p.
    """
    check_shape("logits", logits, (None, None))
    check_shape("noise", noise, tuple(logits.shape))
    batch, vocab = logits.shape
    for name, value in (("temperature", temperature), ("top_k", top_k), ("top_p", top_p)):
        check_shape(name, value, (batch,))
    scaled = logits.float() / temperature.float().clamp_min(GREEDY)[:, None]
    ordered, order = scaled.sort(dim=1, descending=True, stable=True)
    rank = torch.arange(vocab, device=logits.device)[None]
    keep = rank < torch.where(top_k > 0, top_k, vocab)[:, None]
    chances = ordered.masked_fill(~keep, float("-inf")).softmax(1)
    keep &= (chances.cumsum(1) - chances) < top_p[:, None]  # a token stays if those before it fall short
    keep[:, 0] = True
    noisy = ordered + noise.gather(1, order)
    noisy = torch.where((temperature < GREEDY)[:, None], ordered, noisy)
    best = noisy.masked_fill(~keep, float("-inf")).argmax(1, keepdim=True)
    return order.gather(1, best).squeeze(1)


def check_settings(temperature: float, top_k: int, top_p: float, guidance: float) -> None:
    """Refuse settings of one row that mean nothing, before they enter a batch."""
    if not 0.0 <= temperature <= 100.0:
        raise RangeError(f"temperature {temperature} is outside [0, 100]")
    if top_k < 0:
        raise RangeError(f"top_k {top_k} is negative")
    if not 0.0 < top_p <= 1.0:
        raise RangeError(f"top_p {top_p} is outside (0, 1]")
    if not 0.0 <= guidance <= 100.0:
        raise RangeError(f"guidance {guidance} is outside [0, 100]")
