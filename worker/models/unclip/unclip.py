"""unCLIP: a prior from CLIP's text vector to its picture vector, and a decoder from the picture vector to a latent.

Source: Ramesh et al., "Hierarchical Text-Conditional Image Generation with CLIP Latents" (2022), section 2: the prior
predicts the clean vector, the decoder gets the vector added to the time and as extra tokens. The decoder denoises a
VQGAN's latent (Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022) by a transformer
whose norms the condition modulates (Peebles and Xie, "Scalable Diffusion Models with Transformers", 2023, adaLN-Zero).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.errors import ConfigError, check_float, check_shape

TIME_WAVES = 128  # sines and cosines that tell the time


@dataclass(frozen=True, slots=True)
class UnclipConfig:
    """Prior and decoder; the defaults are the embedded emoji model's."""

    embedding: int = 128  # width of CLIP's vectors
    channels: int = 16  # of the VQGAN's latent
    grid: int = 8  # latent cells along one side
    patch: int = 2  # cells along one side that share a token of the decoder
    width: int = 256  # of the decoder
    layers: int = 4
    heads: int = 4
    extra_tokens: int = 4  # tokens that the picture vector becomes beside the latent's
    prior_width: int = 256
    prior_layers: int = 3
    dropout: float = 0.0  # on residual branches, in training only
    prior_steps: int = 16  # what sampling uses where the job names none, as the three below
    prior_guidance: float = 1.0
    decoder_steps: int = 24
    guidance: float = 2.0

    def __post_init__(self) -> None:
        sizes = (self.embedding, self.channels, self.grid, self.patch, self.width, self.prior_width, self.heads)
        if min(sizes) < 1 or min(self.layers, self.prior_layers, self.extra_tokens) < 0:
            raise ConfigError("an unCLIP's sizes are positive")
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} is no multiple of {self.heads} heads")
        if self.grid % self.patch:
            raise ConfigError(f"grid {self.grid} is no multiple of patches of {self.patch} cells")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UnclipConfig:
        """Build from JSON; an unknown key is an error."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ConfigError(f"unknown unCLIP settings: {sorted(unknown)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The form that `from_dict` reads, ready for JSON."""
        return asdict(self)


class TimeEmbedding(nn.Module):
    """Times (B,) in [0, 1] to vectors (B, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(TIME_WAVES, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, time: Tensor) -> Tensor:
        half = TIME_WAVES // 2
        rates = torch.exp(-math.log(1000.0) * torch.arange(half, device=time.device) / half)
        angles = 1000.0 * time.float()[:, None] * rates  # (B, half)
        waves = torch.cat([angles.cos(), angles.sin()], 1).to(self.fc1.weight.dtype)
        return self.fc2(F.silu(self.fc1(waves)))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale (B, W) rows (B, W) or tokens (B, S, W)."""
    if x.ndim == 3:
        shift, scale = shift[:, None], scale[:, None]
    return x * (1.0 + scale) + shift


class PriorBlock(nn.Module):
    """A residual GELU MLP of twice the width, modulated by the condition (B, W)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 3 * width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(condition).chunk(3, dim=1)
        inner = self.fc2(F.gelu(self.fc1(modulate(self.norm(x), shift, scale))))
        return x + gate * self.dropout(inner)


class Prior(nn.Module):
    """The clean picture vector (B, D) in a noisy one, given the caption's vector; all in the whitened form."""

    def __init__(self, config: UnclipConfig) -> None:
        super().__init__()
        width = config.prior_width
        self.time = TimeEmbedding(width)
        self.text = nn.Linear(config.embedding, width)
        self.null = nn.Parameter(torch.randn(width) * 0.02)  # stands for "no caption"
        self.enter = nn.Linear(config.embedding, width)
        self.blocks = nn.ModuleList(PriorBlock(width, config.dropout) for _ in range(config.prior_layers))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, config.embedding)

    def forward(self, noisy: Tensor, time: Tensor, text: Tensor, silent: Tensor) -> Tensor:
        """noisy (B, D); time (B,); text (B, D), unit length; silent (B,) bool: leave the caption out."""
        said = self.text(text * text.shape[1] ** 0.5)
        said = torch.where(silent[:, None], self.null.to(said.dtype), said)
        condition = F.silu(self.time(time) + said)
        x = self.enter(noisy) + said
        for block in self.blocks:
            x = block(x, condition)
        return self.leave(self.norm(x))


class DecoderBlock(nn.Module):
    """Self-attention over all tokens and a GELU MLP of four times the width; norms and gates by the condition."""

    def __init__(self, config: UnclipConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def attend(self, x: Tensor) -> Tensor:
        """(B, S, W) of normed tokens (B, S, W)."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, S, d)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=1)
        x = x + gate1[:, None] * self.dropout(self.attend(modulate(self.norm1(x), shift1, scale1)))
        inner = self.fc2(F.gelu(self.fc1(modulate(self.norm2(x), shift2, scale2))))
        return x + gate2[:, None] * self.dropout(inner)


class Decoder(nn.Module):
    """The velocity (B, C, h, w) of a noisy latent, given the picture vector; both in the whitened form."""

    def __init__(self, config: UnclipConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.time = TimeEmbedding(width)
        self.picture = nn.Linear(config.embedding, width)
        self.null = nn.Parameter(torch.randn(config.embedding) * 0.02)  # stands for "no picture vector"
        self.extra = nn.Linear(config.embedding, config.extra_tokens * width)
        self.enter = nn.Linear(config.channels * config.patch**2, width)
        self.rows = nn.Parameter(torch.randn(config.grid // config.patch, width) * 0.02)
        self.columns = nn.Parameter(torch.randn(config.grid // config.patch, width) * 0.02)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, config.channels * config.patch**2)
        for layer in (self.modulation, self.leave):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, noisy: Tensor, time: Tensor, picture: Tensor, silent: Tensor) -> Tensor:
        """noisy (B, C, h, w); time (B,); picture (B, D); silent (B,) bool: leave the picture vector out."""
        config = self.config
        picture = torch.where(silent[:, None], self.null.to(picture.dtype), picture)
        condition = F.silu(self.time(time) + self.picture(picture))  # (B, W)
        places = (self.rows[:, None] + self.columns[None]).flatten(0, 1)  # (S, W)
        cells = self.enter(F.pixel_unshuffle(noisy, config.patch).flatten(2).transpose(1, 2)) + places  # (B, S, W)
        extra = self.extra(picture).view(len(picture), config.extra_tokens, config.width)
        x = torch.cat([extra, cells.to(extra.dtype)], dim=1)
        for block in self.blocks:
            x = block(x, condition)
        x = self.norm(x[:, config.extra_tokens :])
        shift, scale = self.modulation(condition).chunk(2, dim=1)
        cells = self.leave(modulate(x, shift, scale)).transpose(1, 2)  # (B, C * patch * patch, S)
        side = config.grid // config.patch
        return F.pixel_shuffle(cells.reshape(len(noisy), -1, side, side), config.patch)


class Unclip(nn.Module):
    """Both networks, and the means and spreads of what they were trained on."""

    picture_mean: Tensor  # (D,)
    picture_spread: Tensor  # (D,)
    latent_mean: Tensor  # (C,)
    latent_spread: Tensor  # (C,)

    def __init__(self, config: UnclipConfig) -> None:
        super().__init__()
        self.config = config
        self.prior = Prior(config)
        self.decoder = Decoder(config)
        self.register_buffer("picture_mean", torch.zeros(config.embedding))
        self.register_buffer("picture_spread", torch.ones(config.embedding))
        self.register_buffer("latent_mean", torch.zeros(config.channels))
        self.register_buffer("latent_spread", torch.ones(config.channels))

    def whiten(self, vectors: Tensor) -> Tensor:
        """Picture vectors (B, D) of unit length, every component brought to mean 0 and spread 1."""
        return (vectors - self.picture_mean) / self.picture_spread

    def unit(self, whitened: Tensor) -> Tensor:
        """The way back: unit vectors (B, D)."""
        return F.normalize(whitened * self.picture_spread + self.picture_mean, dim=-1)

    def whiten_latent(self, latent: Tensor) -> Tensor:
        """Latents (B, C, h, w) with every channel brought to mean 0 and spread 1."""
        return (latent - self.latent_mean[:, None, None]) / self.latent_spread[:, None, None]

    def latent(self, whitened: Tensor) -> Tensor:
        """The way back, for the VQGAN."""
        return whitened * self.latent_spread[:, None, None] + self.latent_mean[:, None, None]

    def check_vectors(self, name: str, vectors: Tensor) -> None:
        """Refuse CLIP vectors of another width or type."""
        check_shape(name, vectors, (None, self.config.embedding))
        check_float(name, vectors)
