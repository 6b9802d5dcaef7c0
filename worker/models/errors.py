"""What a model refuses.

ModelError                  root of this package; a ValueError, since the caller's value is at fault
├── ShapeError              wrong rank or size of a tensor
├── RangeError              a value outside what the model was trained on, or not finite
└── ConfigError             a configuration that cannot be built
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class ModelError(ValueError):
    """A value that a model cannot take."""


class ShapeError(ModelError):
    """A tensor of the wrong rank or size."""


class RangeError(ModelError):
    """A value outside the range that the model takes."""


class ConfigError(ModelError):
    """A configuration that cannot be built."""


def check_shape(name: str, tensor: Tensor, shape: Sequence[int | None]) -> None:
    """Refuse a tensor whose shape differs; None in `shape` stands for any size."""
    fits = tensor.ndim == len(shape) and all(
        want is None or have == want for have, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ShapeError(f"{name} has shape {tuple(tensor.shape)}, wanted ({wanted})")


def check_float(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is not of a floating type."""
    if not tensor.is_floating_point():
        raise RangeError(f"{name} has dtype {tensor.dtype}, wanted a floating type")


def check_ids(name: str, ids: Tensor, size: int) -> None:
    """Refuse ids that are not int64 in [0, size). Reads the device: not for inner loops."""
    if ids.dtype != torch.int64:
        raise RangeError(f"{name} has dtype {ids.dtype}, wanted int64")
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= size):
        raise RangeError(f"{name} holds ids outside [0, {size})")
