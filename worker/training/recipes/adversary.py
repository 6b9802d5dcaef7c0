"""The parts of VQGAN training that are thrown away after it: discriminator, perceptual distance, codebook statistics.

Sources: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (2017), appendix 6.1.2
(patches); Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (2018), section 3,
on features of our own CLIP tower; Razavi et al., "Generating Diverse High-Fidelity Images with VQ-VAE-2" (2019),
section 2.1 (moving averages), with unused codes put back among the data as in Dhariwal et al., "Jukebox" (2020),
section 3.1.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.clip.clip import Clip
from worker.models.vqgan.quantizer import VectorQuantizer


class Discriminator(nn.Module):
    """Scores (B, 1, h, w) of overlapping patches of pictures (B, 3, H, W); above 0 reads as real."""

    def __init__(self, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        channels = width
        for index in range(1, layers + 1):
            stride, wider = (2 if index < layers else 1), min(width * 2**index, width * 4)
            parts += [nn.Conv2d(channels, wider, 4, stride, 1, bias=False), nn.BatchNorm2d(wider), nn.LeakyReLU(0.2)]
            channels = wider
        self.layers = nn.Sequential(*parts, nn.Conv2d(channels, 1, 4, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.layers(images)
        return scores


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


class Perceptual(nn.Module):
    """Distance of pictures (B, 3, H, W) in [-1, 1] in the first layers of a CLIP image tower, every level equal."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        network: Any = clip.network
        self.trunk = network.visual.trunk.eval().requires_grad_(False)

    def levels(self, x: Tensor) -> list[Tensor]:
        """Unit-length features of the stem and three stages."""
        trunk = self.trunk
        x = trunk.act1(trunk.bn1(trunk.conv1(x)))
        out = [x]
        for stage in (trunk.layer1, trunk.layer2, trunk.layer3):
            x = stage(x)
            out.append(x)
        return [F.normalize(level.float(), dim=1) for level in out]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.levels(x)
        pairs = zip(wanted, self.levels(y), strict=True)
        return torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).mean()


class CodebookStatistics:
    """Moving averages that are the codebook: counts and sums of the latents nearest to every code."""

    def __init__(self, quantizer: VectorQuantizer, decay: float = 0.99, dead_below: float = 0.03) -> None:
        """dead_below: a code expected to be hit less often than this per step is put back among the data."""
        self.weight = quantizer.embedding.weight.requires_grad_(False)
        self.decay, self.dead_below = decay, dead_below
        self.counts = torch.ones(self.weight.shape[0], device=self.weight.device)
        self.sums = self.weight.detach().clone()

    @torch.no_grad()
    def seed(self, latent: Tensor, generator: torch.Generator) -> None:
        """Start from latents (B, C, h, w) picked at random."""
        flat = latent.permute(0, 2, 3, 1).flatten(0, 2).float()
        picks = torch.randint(0, len(flat), (len(self.weight),), device=flat.device, generator=generator)
        self.weight.copy_(flat[picks] + 0.01 * flat.std() * torch.randn_like(self.weight))
        self.sums.copy_(self.weight)
        self.counts.fill_(1.0)

    @torch.no_grad()
    def update(self, latent: Tensor, indices: Tensor, generator: torch.Generator) -> None:
        """Move every code towards the mean of its latents; revive the dead."""
        flat, places = latent.permute(0, 2, 3, 1).flatten(0, 2).float(), indices.flatten()
        counts = torch.bincount(places, minlength=len(self.weight)).float()
        sums = torch.zeros_like(self.sums).index_add_(0, places, flat)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        picks = torch.randint(0, len(flat), (len(self.weight),), device=flat.device, generator=generator)
        dead = self.counts < self.dead_below
        self.sums = torch.where(dead[:, None], flat[picks], self.sums)
        self.counts = torch.where(dead, 1.0, self.counts)
        self.weight.copy_(self.sums / self.counts[:, None])
