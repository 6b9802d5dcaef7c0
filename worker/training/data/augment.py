"""Changes to a batch of pictures that keep their meaning, made on the device: all take (B, 3, H, W) in [0, 1].

Nothing mirrors: arrows and letters would lie. The outline is what a held-out design needs most (OpenMoji draws in
black contours), and it comes from the training pictures' own edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Chances (0 to 1) and strengths."""

    turn: float = 0.3  # radians, at most
    zoom: tuple[float, float] = (0.7, 1.15)  # size of the picture in its frame
    shift: float = 0.15  # share of the side, at most
    crop: float = 0.25  # chance of a closer view, up to 1.8 times
    colour: float = 0.8  # chance of changed brightness, contrast, saturation
    hue: float = 0.15  # chance of a turned hue, where the caption names no colour
    grey: float = 0.15
    outline: float = 0.35
    ground: float = 0.15  # chance of a tinted ground
    blur: float = 0.2
    noise: float = 0.3
    erase: float = 0.25


def uniform(like: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(B, 1, 1, 1) numbers."""
    shape = (like.shape[0], 1, 1, 1)
    return torch.rand(shape, device=like.device, generator=generator) * (high - low) + low


def chosen(like: Tensor, chance: float, generator: torch.Generator) -> Tensor:
    """(B, 1, 1, 1) bool, True with that chance."""
    return uniform(like, 0.0, 1.0, generator) < chance


def some(
    x: Tensor,
    chance: float,
    generator: torch.Generator,
    change: Callable[[Tensor], Tensor],
    allowed: Tensor | None = None,
) -> Tensor:
    """Each picture of those `allowed` (B,) changed with that chance; the others cost nothing."""
    drawn = torch.rand(x.shape[0], device=x.device, generator=generator) < chance
    rows = (drawn if allowed is None else drawn & allowed).nonzero().flatten()
    return x.index_copy(0, rows, change(x[rows])) if len(rows) else x


def warp(x: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Turn, zoom, shear, shift; some closer views. White beyond the edge."""
    size = uniform(x, *settings.zoom, generator)
    close = uniform(x, 1.0, 1.8, generator)
    near = chosen(x, settings.crop, generator)
    scale = (1.0 / torch.where(near, close, size)).flatten()
    angle = uniform(x, -settings.turn, settings.turn, generator).flatten()
    stretch = uniform(x, -0.12, 0.12, generator).flatten()
    shear = uniform(x, -0.1, 0.1, generator).flatten()
    reach = torch.where(near.flatten(), (1 - scale).clamp_min(0.0), 2 * settings.shift * torch.ones_like(scale))
    move_x = uniform(x, -1, 1, generator).flatten() * reach
    move_y = uniform(x, -1, 1, generator).flatten() * reach
    cos, sin = angle.cos() * scale, angle.sin() * scale
    top = torch.stack([cos * (1 + stretch), -sin + shear * scale, move_x], -1)
    bottom = torch.stack([sin, cos * (1 - stretch), move_y], -1)
    grid = F.affine_grid(torch.stack([top, bottom], 1), list(x.shape), align_corners=False)
    return F.grid_sample(x - 1.0, grid, align_corners=False) + 1.0


def luminance(x: Tensor) -> Tensor:
    """(B, 1, H, W)."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True)


def recolour(x: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation; the white ground stays nearly white."""
    grey = luminance(x)
    saturated = grey + (x - grey) * uniform(x, 0.5, 1.6, generator)
    contrast = 1 - (1 - saturated) * uniform(x, 0.6, 1.3, generator)
    return contrast.clamp(0, 1) ** uniform(x, 0.7, 1.4, generator)


def hue_matrix(angle: Tensor) -> Tensor:
    """(B, 3, 3): rotation of colours about the grey axis by `angle` (B,) radians."""
    cos, sin = angle.cos(), angle.sin()
    a = cos + (1 - cos) / 3
    b = (1 - cos) / 3 - math.sqrt(1 / 3) * sin
    c = (1 - cos) / 3 + math.sqrt(1 / 3) * sin
    rows = [torch.stack(row, -1) for row in ((a, b, c), (c, a, b), (b, c, a))]
    return torch.stack(rows, -2)


def turn_hue(x: Tensor, angle: Tensor) -> Tensor:
    """Colours turned by `angle` (B,) radians."""
    return torch.einsum("bij,bjhw->bihw", hue_matrix(angle).to(x.dtype), x).clamp(0, 1)


def any_hue(x: Tensor, generator: torch.Generator) -> Tensor:
    """Colours turned by any angle, one per picture."""
    return turn_hue(x, uniform(x, -math.pi, math.pi, generator).flatten())


def edges(x: Tensor, thickness: int) -> Tensor:
    """(B, 1, H, W) in [0, 1]: 1 on contours, drawn `thickness` pixels wide."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]).abs().amax(1, keepdim=True)
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]).abs().amax(1, keepdim=True)
    strength = (torch.maximum(across, down) * 2.5 - 0.25).clamp(0, 1)
    if thickness == 1:
        return strength
    return F.max_pool2d(strength, 3, 1, 1) if thickness == 3 else F.max_pool2d(F.pad(strength, (0, 1, 0, 1)), 2, 1)


def outline(x: Tensor, generator: torch.Generator) -> Tensor:
    """Black contours, over the picture's colours, over pale ones, or over white."""
    line = edges(x, int(torch.randint(1, 4, (), generator=_cpu(generator))))
    ground = uniform(x, 0.0, 1.0, generator)
    paint = torch.where(ground < 0.2, torch.ones_like(x), torch.where(ground < 0.4, 0.5 + 0.5 * x, x))
    return paint * (1 - line * uniform(x, 0.7, 1.0, generator))


def _cpu(generator: torch.Generator) -> torch.Generator:
    """A CPU generator seeded from a device's one, for numbers that shape the work."""
    seed = torch.randint(0, 2**31, (), device=generator.device, generator=generator)
    return torch.Generator().manual_seed(int(seed))


def tint_ground(x: Tensor, generator: torch.Generator) -> Tensor:
    """White turned into a colour, dark ones among them."""
    white = (x.amin(1, keepdim=True) - 0.93).clamp_min(0) / 0.07
    colour = torch.rand(x.shape[0], 3, 1, 1, device=x.device, generator=generator)
    return x * (1 - white) + colour * white


def soften(x: Tensor, generator: torch.Generator) -> Tensor:
    """Lower resolution, or a blur, as decoded or enlarged pictures have."""
    small = F.interpolate(F.avg_pool2d(x, 2), size=x.shape[2:], mode="bilinear", align_corners=False)
    return torch.lerp(x, small, uniform(x, 0.3, 1.0, generator))


def grain(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pixel noise."""
    noise = torch.randn(x.shape, device=x.device, generator=generator) * uniform(x, 0.0, 0.12, generator)
    return (x + noise).clamp(0, 1)


def erase(x: Tensor, generator: torch.Generator) -> Tensor:
    """A rectangle of one colour over a part."""
    height, width = x.shape[2:]
    rows = torch.arange(height, device=x.device).view(1, 1, -1, 1) / height
    columns = torch.arange(width, device=x.device).view(1, 1, 1, -1) / width
    top, left = uniform(x, -0.1, 0.9, generator), uniform(x, -0.1, 0.9, generator)
    tall, wide = uniform(x, 0.1, 0.4, generator), uniform(x, 0.1, 0.4, generator)
    inside = (rows > top) & (rows < top + tall) & (columns > left) & (columns < left + wide)
    colour = torch.rand(x.shape[0], 3, 1, 1, device=x.device, generator=generator)
    return torch.where(inside, colour, x)


def augment(x: Tensor, colour_matters: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """All of it. colour_matters (B,) bool: the caption names a colour, so hue stays and grey is not used."""
    x = some(x, settings.outline, generator, lambda part: outline(part, generator))
    x = some(x, settings.hue, generator, lambda part: any_hue(part, generator), ~colour_matters)
    x = some(x, settings.colour, generator, lambda part: recolour(part, generator))
    x = some(x, settings.grey, generator, lambda part: luminance(part).expand_as(part), ~colour_matters)
    x = warp(x, settings, generator)
    x = some(x, settings.ground, generator, lambda part: tint_ground(part, generator))
    x = some(x, settings.blur, generator, lambda part: soften(part, generator))
    x = some(x, settings.noise, generator, lambda part: grain(part, generator))
    x = some(x, settings.erase, generator, lambda part: erase(part, generator))
    return x.clamp(0, 1)
