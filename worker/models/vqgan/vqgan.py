"""VQGAN: a convolutional autoencoder whose latent is a grid of codebook entries.

Source: Esser, Rombach, Ommer, "Taming Transformers for High-Resolution Image Synthesis" (2021), section 3.1 and
appendix A. Parameter names and block order are taming's, so that its checkpoints load by configuration alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.errors import ConfigError, ShapeError, check_float, check_ids, check_shape
from worker.models.vqgan.blocks import Downsample, Level, Mid, Upsample, norm
from worker.models.vqgan.quantizer import Quantized, VectorQuantizer


@dataclass(frozen=True, slots=True)
class VQGANConfig:
    """The defaults are taming's f16-1024 (ImageNet)."""

    channels: int = 128  # width at full resolution
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)  # width per level, from full resolution down
    encoder_blocks: int = 2  # residual blocks per level
    decoder_blocks: int = 3  # taming: one more than the encoder
    attention_at: tuple[int, ...] = (16,)  # nominal resolutions whose levels attend
    resolution: int = 256  # side in pixels of the training pictures
    z_channels: int = 256  # width between the halves and their 1x1 convs
    code_width: int = 256  # width of a codebook entry and of the latent
    codes: int = 1024  # entries in the codebook
    groups: int = 32  # of every group norm; must divide all widths
    beta: float = 0.25  # weight of the commitment term
    dropout: float = 0.0
    encodes: bool = True  # False: the checkpoint holds no encoder; pictures can be drawn, none can be read

    def __post_init__(self) -> None:
        if any(self.channels * factor % self.groups for factor in self.multipliers):
            raise ConfigError(
                f"{self.groups} norm groups do not divide the widths {self.channels} x {self.multipliers}"
            )
        if self.resolution % self.factor:
            raise ConfigError(f"resolution {self.resolution} is no multiple of the factor {self.factor}")

    @property
    def factor(self) -> int:
        """Pixels per latent cell along one side."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def grid(self) -> int:
        """Latent cells along one side of a training picture."""
        return self.resolution // self.factor

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VQGANConfig:
        """Build from JSON; an unknown key is an error."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ConfigError(f"unknown VQGAN settings: {sorted(unknown)}")
        lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists})

    def to_dict(self) -> dict[str, Any]:
        """The form that `from_dict` reads, ready for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


class Encoder(nn.Module):
    """Pictures (B, 3, H, W) to features (B, z_channels, H/f, W/f)."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        width, last = config.channels, len(config.multipliers) - 1
        for index, factor in enumerate(config.multipliers):
            widths = [width] + [config.channels * factor] * config.encoder_blocks
            attends = config.resolution // 2**index in config.attention_at
            level = Level(widths, config.groups, config.dropout, attends)
            width = widths[-1]
            if index < last:
                level.downsample = Downsample(width)
            self.down.append(level)
        self.mid = Mid(width, config.groups, config.dropout)
        self.norm_out = norm(width, config.groups)
        self.conv_out = nn.Conv2d(width, config.z_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        h = self.conv_in(images)
        for level in self.down:
            h = level(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Features (B, z_channels, h, w) to pictures (B, 3, hf, wf); levels are stored from full resolution down."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        width = config.channels * config.multipliers[-1]
        self.conv_in = nn.Conv2d(config.z_channels, width, 3, padding=1)
        self.mid = Mid(width, config.groups, config.dropout)
        levels: list[Level] = []
        for index in reversed(range(len(config.multipliers))):
            widths = [width] + [config.channels * config.multipliers[index]] * config.decoder_blocks
            attends = config.resolution // 2**index in config.attention_at
            level = Level(widths, config.groups, config.dropout, attends)
            width = widths[-1]
            if index > 0:
                level.upsample = Upsample(width)
            levels.insert(0, level)
        self.up = nn.ModuleList(levels)
        self.norm_out = norm(width, config.groups)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        h = self.mid(self.conv_in(features))
        for level in reversed(self.up):
            h = level(h)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class VQGAN(nn.Module):
    """Encoder, codebook, decoder. Pictures are in [-1, 1]; the decoder's output may leave that range a little."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config) if config.encodes else None
        self.decoder = Decoder(config)
        self.quantize = VectorQuantizer(config.codes, config.code_width, config.beta)
        self.quant_conv = nn.Conv2d(config.z_channels, config.code_width, 1) if config.encodes else None
        self.post_quant_conv = nn.Conv2d(config.code_width, config.z_channels, 1)

    def encode(self, images: Tensor) -> Tensor:
        """Latent (B, C, H/f, W/f) before quantisation, of `images` (B, 3, H, W) in [-1, 1]; H and W multiples of f.

        ConfigError where the model came without an encoder.
        """
        if self.encoder is None or self.quant_conv is None:
            raise ConfigError("this VQGAN came without its encoder: it draws pictures but cannot read any")
        check_shape("images", images, (None, 3, None, None))
        check_float("images", images)
        factor = self.config.factor
        if images.shape[2] % factor or images.shape[3] % factor:
            raise ShapeError(f"image sides {tuple(images.shape[2:])} are no multiples of {factor}")
        return self.quant_conv(self.encoder(images))

    def decode(self, latent: Tensor) -> Tensor:
        """Pictures (B, 3, hf, wf), about [-1, 1], of `latent` (B, C, h, w)."""
        check_shape("latent", latent, (None, self.config.code_width, None, None))
        return self.decoder(self.post_quant_conv(latent))

    def decode_indices(self, indices: Tensor) -> Tensor:
        """Pictures (B, 3, hf, wf) of code `indices` (B, h, w)."""
        check_shape("indices", indices, (None, None, None))
        check_ids("indices", indices, self.config.codes)
        return self.decode(self.quantize.lookup(indices))

    def codebook_range(self) -> tuple[Tensor, Tensor]:
        """Least and greatest value (C,) of every latent channel over the codebook: the clamp of VQGAN+CLIP."""
        weight = self.quantize.embedding.weight.detach()
        return weight.amin(0), weight.amax(0)

    def forward(self, images: Tensor) -> tuple[Tensor, Quantized]:
        """Reconstructions (B, 3, H, W) and what the codebook gave."""
        quantized = self.quantize(self.encode(images))
        return self.decode(quantized.latent), quantized


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB (B,) of pictures (B, 3, H, W) in [-1, 1]; `others` is clamped first."""
    error = (images - others.clamp(-1, 1)).square().flatten(1).mean(1)
    return 10.0 * (4.0 / error.clamp_min(1e-10)).log() / math.log(10.0)
