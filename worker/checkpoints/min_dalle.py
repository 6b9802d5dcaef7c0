"""dalle-mini and dalle-mega as min-dalle publishes them (huggingface.co/kuprel/min-dalle, MIT), to our own files.

`encoder.pt` and `decoder.pt` are pickled state dictionaries in float16. The norms that only shift have no weight there,
which min-dalle answers by not looking at names at all; here every name and shape is in a manifest, and nothing else
passes. Queries, keys and values are joined to one matrix, as are the GLU's two, and what can never be sampled is left
out of the head. Done once: what a worker loads is safetensors and JSON.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors.torch import save_file
from torch import Tensor

from worker.checkpoints.errors import BadRegistry, KeyMismatch
from worker.models.dalle.dalle_bart import DalleBartConfig

__all__ = ["Manifest", "convert", "decoder_manifest", "encoder_manifest", "join", "read_table", "write"]

ENCODER, DECODER = "encoder.pt", "decoder.pt"
CONFIG, WEIGHTS = "config.json", "model.safetensors"

Manifest = dict[str, tuple[int, ...]]


def convert(source: Path, target: Path, config: DalleBartConfig) -> int:
    """Read a folder with encoder.pt and decoder.pt, write config.json and model.safetensors; the weights written.

    KeyMismatch where the files are not of this configuration, BadRegistry where they cannot be read.
    """
    encoder = read_table(source / ENCODER, encoder_manifest(config))
    decoder = read_table(source / DECODER, decoder_manifest(config))
    return write(join(encoder, decoder, config), config.to_dict(), target)


def write(tensors: Mapping[str, Tensor], config: Mapping[str, Any], target: Path) -> int:
    """A model's folder; the weights written."""
    target.mkdir(parents=True, exist_ok=True)
    (target / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(dict(tensors), target / WEIGHTS, {"format": "pt", "source": "kuprel/min-dalle"})
    return sum(tensor.numel() for tensor in tensors.values())


def encoder_manifest(config: DalleBartConfig) -> Manifest:
    """Every name in encoder.pt and its shape."""
    names: Manifest = _ends(config.text_vocab, config.text_length, config)
    for index in range(config.encoder_layers):
        names |= _layer(f"layers.{index}.", ("self_attn",), config)
    return names


def decoder_manifest(config: DalleBartConfig) -> Manifest:
    """Every name in decoder.pt and its shape."""
    names: Manifest = _ends(config.code_rows, config.grid * config.grid, config)
    names["lm_head.weight"] = (config.code_rows, config.width)
    for index in range(config.decoder_layers):
        names |= _layer(f"layers.{index}.", ("self_attn", "encoder_attn"), config)
    return names


def _ends(rows: int, positions: int, config: DalleBartConfig) -> Manifest:
    width = config.width
    return {
        "embed_tokens.weight": (rows, width),
        "embed_positions.weight": (positions, width),
        "layernorm_embedding.weight": (width,),
        "layernorm_embedding.bias": (width,),
        "final_ln.bias": (width,),
    }


def _layer(prefix: str, attentions: tuple[str, ...], config: DalleBartConfig) -> Manifest:
    width, hidden = config.width, config.hidden
    names: Manifest = {}
    for attention in attentions:
        names[f"{prefix}pre_{attention}_layer_norm.bias"] = (width,)
        names |= {f"{prefix}{attention}.{name}_proj.weight": (width, width) for name in ("q", "k", "v", "out")}
        names |= {f"{prefix}{attention}_layer_norm.{name}": (width,) for name in ("weight", "bias")}
    return names | {
        f"{prefix}glu.ln0.bias": (width,),
        f"{prefix}glu.ln1.bias": (hidden,),
        f"{prefix}glu.fc0.weight": (hidden, width),
        f"{prefix}glu.fc1.weight": (hidden, width),
        f"{prefix}glu.fc2.weight": (width, hidden),
    }


def read_table(path: Path, manifest: Manifest) -> dict[str, Tensor]:
    """A pickled table of weights that has exactly these names and shapes, and finite numbers; no code of it is run."""
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, BadZipFile, pickle.UnpicklingError) as error:
        raise BadRegistry(f"cannot read weights {path}: {error}") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise BadRegistry(f"{path} holds no table of weights")
    _check(path, tensors, manifest)
    return dict(tensors)


def _check(path: Path, tensors: Mapping[str, Tensor], manifest: Manifest) -> None:
    """Raises KeyMismatch for other names or shapes than the manifest's, or numbers that are none."""
    theirs = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(name for name in manifest.keys() | theirs.keys() if manifest.get(name) != theirs.get(name))
    if wrong:
        shown = ", ".join(f"{name} (wanted {manifest.get(name)}, file {theirs.get(name)})" for name in wrong[:5])
        raise KeyMismatch(f"{path}: {len(wrong)} of {len(manifest)} weights differ: {shown}")
    broken = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if broken:
        raise KeyMismatch(f"{path}: {broken[:5]} hold numbers that are no numbers")


def _is_finite(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(tensor.isfinite().all())


def join(encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor], config: DalleBartConfig) -> dict[str, Tensor]:
    """The weights of a DalleBart, from those of min-dalle's two files."""
    ours = _joined_ends(encoder, "text") | _joined_ends(decoder, "code")
    ours["head.weight"] = decoder["lm_head.weight"][: config.image_vocab].clone()
    for index in range(config.encoder_layers):
        theirs = _within(encoder, f"layers.{index}.")
        ours |= _named(f"encoder.{index}.", _self_attention(theirs) | _glu(theirs))
    for index in range(config.decoder_layers):
        theirs = _within(decoder, f"layers.{index}.")
        ours |= _named(f"decoder.{index}.", _self_attention(theirs) | _cross_attention(theirs) | _glu(theirs))
    return {name: tensor.contiguous() for name, tensor in ours.items()}


def _within(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _named(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in weights.items()}


def _joined_ends(theirs: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {
        f"{name}_embedding.weight": theirs["embed_tokens.weight"],
        f"{name}_positions.weight": theirs["embed_positions.weight"],
        f"{name}_norm.weight": theirs["layernorm_embedding.weight"],
        f"{name}_norm.bias": theirs["layernorm_embedding.bias"],
        f"{name}_out.bias": theirs["final_ln.bias"],
    }


def _self_attention(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        "attention.norm.bias": theirs["pre_self_attn_layer_norm.bias"],
        "attention.qkv.weight": torch.cat([theirs[f"self_attn.{name}_proj.weight"] for name in "qkv"]),
        "attention.out.weight": theirs["self_attn.out_proj.weight"],
        "attention.out_norm.weight": theirs["self_attn_layer_norm.weight"],
        "attention.out_norm.bias": theirs["self_attn_layer_norm.bias"],
    }


def _cross_attention(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        "cross.norm.bias": theirs["pre_encoder_attn_layer_norm.bias"],
        "cross.q.weight": theirs["encoder_attn.q_proj.weight"],
        "cross.kv.weight": torch.cat([theirs[f"encoder_attn.{name}_proj.weight"] for name in "kv"]),
        "cross.out.weight": theirs["encoder_attn.out_proj.weight"],
        "cross.out_norm.weight": theirs["encoder_attn_layer_norm.weight"],
        "cross.out_norm.bias": theirs["encoder_attn_layer_norm.bias"],
    }


def _glu(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        "glu.norm.bias": theirs["glu.ln0.bias"],
        "glu.up.weight": torch.cat([theirs["glu.fc0.weight"], theirs["glu.fc1.weight"]]),
        "glu.inner_norm.bias": theirs["glu.ln1.bias"],
        "glu.down.weight": theirs["glu.fc2.weight"],
    }
