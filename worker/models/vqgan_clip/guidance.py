"""The mathematics of VQGAN+CLIP: crops, augmentation, distances, clamps, regularisers, first latents.

Sources: Crowson et al., "VQGAN-CLIP: Open Domain Image Generation and Editing with Natural Language Guidance" (2022),
section 3; Crowson's z+quantize notebook (MIT, via EleutherAI/vqgan-clip) for the crop-size law and the gradients of
the clamps. Written anew. No loop and no state here: every random draw comes from a key (worker.models.noise).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.models.errors import RangeError, check_shape
from worker.models.noise import normal, uniform
from worker.models.vqgan.vqgan import VQGAN


@dataclass(frozen=True, slots=True)
class CutSettings:
    """Which views of the picture CLIP sees in one step."""

    cuts: int = 12  # views per step; time and quality grow with it
    full: int = 8  # how many of them show the whole picture, slightly moved
    smallest: float = 0.5  # least side of a crop, as a share of the picture's shorter side
    power: float = 1.0  # side = smallest + (1 - smallest) * u ** power; above 1 favours small crops
    jitter: float = 0.08  # whole views: shift and zoom at most this share
    rotation: float = 0.12  # radians, at most
    mirror: bool = False  # flips half of the views; wrong for arrows and letters
    noise: float = 0.2  # standard deviation, at most, of pixel noise per view: without it CLIP rewards faint tints
    fill: float = 1.0  # what lies beyond the picture's edge, in [0, 1]

    def __post_init__(self) -> None:
        if self.cuts < 1 or not 0 <= self.full <= self.cuts:
            raise RangeError(f"{self.full} whole views of {self.cuts} cuts")
        if not 0.0 < self.smallest <= 1.0:
            raise RangeError(f"smallest crop {self.smallest} is outside (0, 1]")


def cut_boxes(keys: Tensor, settings: CutSettings, height: int, width: int) -> Tensor:
    """Affine maps (..., cuts, 2, 3) of keys (...) from a view's coordinates to the picture's, both in [-1, 1] (torch's
    affine_grid).

    Crops lie inside the picture before rotation; whole views may reach `jitter` beyond it.
    """
    u = uniform(keys, settings.cuts * 6).unflatten(-1, (6, settings.cuts)).unbind(-2)  # one row per property
    short = min(height, width)
    side = settings.smallest + (1.0 - settings.smallest) * u[0] ** settings.power
    scale_x, scale_y = side * short / width, side * short / height
    centre_x = (2 * u[1] - 1) * (1 - scale_x)
    centre_y = (2 * u[2] - 1) * (1 - scale_y)
    whole = torch.arange(settings.cuts, device=keys.device) < settings.full
    zoom = 1.0 + settings.jitter * (2 * u[3] - 1)
    scale_x, scale_y = torch.where(whole, zoom, scale_x), torch.where(whole, zoom, scale_y)
    centre_x = torch.where(whole, settings.jitter * (2 * u[1] - 1), centre_x)
    centre_y = torch.where(whole, settings.jitter * (2 * u[2] - 1), centre_y)
    angle = settings.rotation * (2 * u[4] - 1)
    cos, sin = angle.cos(), angle.sin()
    flip = torch.where(u[5] < 0.5, -1.0, 1.0) if settings.mirror else torch.ones_like(angle)
    top = torch.stack([scale_x * cos * flip, -scale_x * sin, centre_x], dim=-1)
    bottom = torch.stack([scale_y * sin * flip, scale_y * cos, centre_y], dim=-1)
    return torch.stack([top, bottom], dim=-2)


def cut(images: Tensor, boxes: Tensor, size: int, fill: float = 1.0) -> Tensor:
    """Views (B * cuts, 3, size, size) of `images` (B, 3, H, W) in one differentiable resampling.

    boxes: (B * cuts, 2, 3), picture by picture. Where the picture is larger than the view, several points per pixel are
    averaged, so that fine texture does not alias.
    """
    batch, _, height, width = images.shape
    check_shape("boxes", boxes, (None, 2, 3))
    points = min(4, max(1, math.ceil(min(height, width) / size - 0.25)))
    grid = F.affine_grid(boxes, [boxes.shape[0], 3, size * points, size * points], align_corners=False)
    grid = grid.reshape(batch, -1, size * points, 2)  # the views of one picture stacked along the rows
    views = F.grid_sample(images - fill, grid.to(images.dtype), align_corners=False) + fill
    views = views.view(batch, 3, -1, size * points, size * points).transpose(1, 2).flatten(0, 1)
    return views if points == 1 else F.avg_pool2d(views, points)


def add_noise(views: Tensor, keys: Tensor, settings: CutSettings, first: int = 0) -> Tensor:
    """Views (B * n, 3, S, S) with normal pixel noise, its strength drawn per view. They are, picture by picture, the n
    views from `first` on of the settings' cuts; keys: (B,)."""
    if settings.noise == 0.0:
        return views
    size, count = views[0].numel(), views.shape[0] // keys.shape[0]
    strength = settings.noise * uniform(keys, count, first + 1)  # (B, n)
    grain = normal(keys + 1, count * size, first * size, settings.cuts * size).view(views.shape)
    return views + strength.view(-1, 1, 1, 1) * grain


def spherical_distance(x: Tensor, y: Tensor) -> Tensor:
    """2 * asin(|x - y| / 2) ** 2 of unit vectors (..., D): half the squared angle between them."""
    return (x - y).norm(dim=-1).div(2).clamp_max(1.0 - 1e-6).arcsin().square().mul(2)


class _FloorGradient(torch.autograd.Function):
    """Forward: x. Backward: no gradient where x is below the stop."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stop: Tensor) -> Tensor:
        ctx.save_for_backward(x > stop)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (active,) = ctx.saved_tensors
        return grad * active, None


def prompt_loss(views: Tensor, targets: Tensor, weights: Tensor, stops: Tensor, cuts: int | None = None) -> Tensor:
    """(...): sum over prompts of |w| * mean over cuts of sign(w) * distance; `cuts`: of how many the views are a part.

    views: (..., n, D) and targets: (..., P, D), unit length. weights, stops: (..., P). A negative weight pushes away, 0
    does nothing. A prompt stops pulling on a view whose signed distance has fallen below its stop (-inf: never).
    Prompt by prompt, so that none's part depends on how many follow.
    """
    total = views.new_zeros(())
    signs, strengths = weights.sign(), weights.abs() / (cuts or views.shape[-2])
    for place in range(targets.shape[-2]):
        signed = spherical_distance(views, targets[..., place : place + 1, :]) * signs[..., place : place + 1]
        signed = _FloorGradient.apply(signed, stops[..., place : place + 1].expand_as(signed))  # (..., n)
        total = total + signed.sum(-1) * strengths[..., place]
    return total


class _ClampGradient(torch.autograd.Function):
    """Forward: clamp. Backward: a gradient passes unless descent along it would go further out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Any, high: Any) -> Tensor:
        clamped = x.clamp(low, high)
        ctx.save_for_backward(x - clamped)
        return clamped

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (excess,) = ctx.saved_tensors
        return grad * (grad * excess >= 0), None, None


def clamp_with_gradient(x: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Clamp whose gradient still leads back inside."""
    return _ClampGradient.apply(x, low, high)


def total_variation(images: Tensor) -> Tensor:
    """(B,): mean absolute difference of neighbouring pixels of (B, 3, H, W)."""
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().mean((1, 2, 3))
    return down + (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean((1, 2, 3))


def border_distance(images: Tensor) -> Tensor:
    """(B,): mean squared distance from white of the outermost sixteenth of pictures (B, 3, H, W) in [0, 1]."""
    edge = max(1, images.shape[-1] // 16)
    strips = (images[..., :edge, :], images[..., -edge:, :], images[..., :, :edge], images[..., :, -edge:])
    return torch.stack([(1 - strip).square().mean((1, 2, 3)) for strip in strips]).mean(0)


def decayed(weight: float, step: int, steps: int, power: float = 1.0) -> float:
    """A weight that falls from its first value to 0 over the run."""
    return weight * max(0.0, 1.0 - step / max(1, steps)) ** power


def random_codes(vqgan: VQGAN, key: Tensor, height: int, width: int) -> Tensor:
    """A latent (1, C, height, width) of codes drawn at random."""
    indices = (uniform(key, height * width) * vqgan.config.codes).long().clamp_max(vqgan.config.codes - 1)
    return vqgan.quantize.lookup(indices.view(1, height, width)).detach()


def soft_noise(key: Tensor, height: int, width: int, mean: float = 0.85, spread: float = 0.15) -> Tensor:
    """A picture (1, 3, height, width) in [0, 1] of low-frequency noise: octaves whose strength halves."""
    total = torch.zeros(1, 3, height, width, device=key.device)
    for octave, cells in enumerate((2, 4, 8)):
        grid = normal(key + octave, 3 * cells * cells).view(1, 3, cells, cells)
        total += F.interpolate(grid, (height, width), mode="bicubic", align_corners=False) * 0.5**octave
    return (mean + spread * total).clamp(0, 1)
