"""Between Pillow's pictures and tensors (B, 3, H, W), float32 in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from shared.errors import NonFinite

__all__ = ["check_finite", "contact_sheet", "scaled", "to_images", "to_tensor"]


def to_tensor(image: Image.Image, size: tuple[int, int] | None = None) -> Tensor:
    """(1, 3, H, W); resized to `size` (width, height) first where that is given."""
    if size:
        image = scaled(image, size)
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(1, image.height, image.width, 3).permute(0, 3, 1, 2).float() / 255


def scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Of that (width, height), whatever its own."""
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def to_images(pictures: Tensor) -> list[Image.Image]:
    """Pillow pictures of (B, 3, H, W); values outside [0, 1] are clamped. Raises NonFinite."""
    check_finite(pictures, "a picture")
    bytes_ = (pictures.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
    return [Image.fromarray(picture.contiguous().numpy()) for picture in bytes_]


def check_finite(values: Tensor, what: str) -> None:
    """Raise NonFinite unless all are numbers."""
    if not bool(torch.isfinite(values).all()):
        raise NonFinite(f"the model made {what} that holds NaN or infinity")


def contact_sheet(images: Sequence[Image.Image]) -> Image.Image:
    """One picture that shows several of the same size, row by row, as near to a square as they make."""
    columns = math.ceil(math.sqrt(len(images)))
    width, height = images[0].size
    sheet = Image.new("RGB", (columns * width, math.ceil(len(images) / columns) * height), "white")
    for number, image in enumerate(images):
        sheet.paste(image, (number % columns * width, number // columns * height))
    return sheet
