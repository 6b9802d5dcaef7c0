"""dalle-mini's VQGAN as min-dalle publishes it, to our own files: the f16-16384 decoder, without the encoder.

Names are taming's but for the codebook's. Its pictures come out in [0, 1], ours are in [-1, 1]: the last convolution is
rescaled here, so that nobody has to know later.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from worker.checkpoints.min_dalle import Manifest, read_table, write
from worker.models.vqgan.vqgan import VQGAN, VQGANConfig

__all__ = ["F16_16384", "convert_vqgan", "detoker_manifest", "rename"]

DETOKER = "detoker.pt"
F16_16384 = VQGANConfig(codes=16384, encodes=False)
CODEBOOK = {"quantize.embedding.weight": "embedding.weight"}  # ours: theirs


def convert_vqgan(source: Path, target: Path, config: VQGANConfig = F16_16384) -> int:
    """Read a folder with detoker.pt, write config.json and model.safetensors; the weights written.

    KeyMismatch where the file is not of this configuration, BadRegistry where it cannot be read.
    """
    tensors = rename(read_table(source / DETOKER, detoker_manifest(config)))
    return write(tensors, config.to_dict(), target)


def detoker_manifest(config: VQGANConfig) -> Manifest:
    """Every name in detoker.pt and its shape."""
    with torch.device("meta"):
        ours = VQGAN(config).state_dict()
    return {CODEBOOK.get(name, name): tuple(tensor.shape) for name, tensor in ours.items()}


def rename(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a VQGAN whose pictures are in [-1, 1]."""
    ours = {name: theirs[CODEBOOK.get(name, name)] for name in [*CODEBOOK, *theirs] if name not in CODEBOOK.values()}
    ours["decoder.conv_out.weight"] = 2 * ours["decoder.conv_out.weight"]
    ours["decoder.conv_out.bias"] = 2 * ours["decoder.conv_out.bias"] - 1
    return {name: tensor.contiguous() for name, tensor in ours.items()}
