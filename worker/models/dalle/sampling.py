"""Choosing the next token: guidance, temperature, top-k, top-p, and noise that depends on the picture alone.

Sources: Ho and Salimans, "Classifier-Free Diffusion Guidance" (2022) for the mix, applied to logits as in
Gafni et al., "Make-A-Scene" (2022), section 3.4; Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020)
for top-p; the Gumbel-max trick for drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from worker.models.errors import RangeError, check_shape
from worker.models.noise import gumbel_at

GREEDY = 1e-4  # a temperature below this takes the likeliest token


def guide(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """uncond + scale * (cond - uncond), logits (B, V), scale (B,)."""
    return unconditional + scale[:, None] * (conditional - unconditional)


class Settings(Protocol):
    """How one row is drawn."""

    @property
    def temperature(self) -> float:
        """0 takes the likeliest."""

    @property
    def top_k(self) -> int:
        """0 keeps all."""

    @property
    def top_p(self) -> float:
        """Keep the fewest tokens whose probability reaches it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The settings of all rows, on the device, and what can be known of them without looking there."""

    temperature: Tensor  # (B,)
    top_k: Tensor  # (B,) int64
    top_p: Tensor  # (B,)
    max_top_k: int  # the largest top_k; 0 where a row keeps all
    is_cut: bool  # whether any top_p is below 1

    @classmethod
    def of(cls, rows: Sequence[Settings], device: torch.device | str | None = None) -> Choice:
        """Of one row after the other."""
        top_k = [row.top_k for row in rows]
        return cls(
            torch.tensor([float(row.temperature) for row in rows], device=device),
            torch.tensor(top_k, dtype=torch.int64, device=device),
            torch.tensor([float(row.top_p) for row in rows], device=device),
            0 if 0 in top_k else max(top_k),
            any(row.top_p < 1.0 for row in rows),
        )


def sample_tokens(logits: Tensor, choice: Choice, keys: Tensor) -> Tensor:
    """Tokens (B,) int64 of logits (B, V), every row by its own settings. Order: temperature, top-k, top-p.

    keys (B,) int64 fix the noise: a token's own is a function of its row's key and its number, so only the candidates'
    is made. The same in every batch, order and on every kind of device.
    """
    check_shape("logits", logits, (None, None))
    check_shape("keys", keys, (logits.shape[0],))
    vocab = logits.shape[1]
    scaled = logits.float() / choice.temperature.clamp_min(GREEDY)[:, None]
    ordered, order = scaled.topk(min(choice.max_top_k or vocab, vocab), dim=1)
    rank = torch.arange(ordered.shape[1], device=logits.device)[None]
    dropped = rank >= torch.where(choice.top_k > 0, choice.top_k, vocab)[:, None]
    ordered = ordered.masked_fill(dropped, float("-inf"))
    noisy = ordered + gumbel_at(keys[:, None], order)
    if choice.is_cut:
        chances = ordered.softmax(1)
        ahead = chances.cumsum(1) - chances  # a token stays if those before it fall short
        noisy = noisy.masked_fill((ahead >= choice.top_p[:, None]) & (rank > 0), float("-inf"))
    best = noisy.argmax(1)
    best = torch.where(choice.temperature < GREEDY, 0, best)
    return order.gather(1, best[:, None]).squeeze(1)


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
