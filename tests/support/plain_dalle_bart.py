"""dalle-mini's transformer written down plainly, on weights under min-dalle's names: every code computes all again.

Written from the facts in dalle-mini's modeling.py (`ln_positions=normformer`), with none of ours in it, so that two
implementations of the same mathematics can be held against each other.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from worker.checkpoints.min_dalle import decoder_manifest, encoder_manifest
from worker.models.dalle.dalle_bart import DalleBartConfig

__all__ = ["plain_decode", "plain_encode", "random_weights"]

Weights = Mapping[str, Tensor]


def random_weights(config: DalleBartConfig, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """An encoder's and a decoder's weights under min-dalle's names; nothing is near zero or one by chance."""
    generator = torch.Generator().manual_seed(seed)
    both = []
    for manifest in (encoder_manifest(config), decoder_manifest(config)):
        weights = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in manifest.items()}
        both.append({name: value + 1 if name.endswith("norm.weight") else value for name, value in weights.items()})
    return both[0], both[1]


def plain_encode(weights: Weights, config: DalleBartConfig, ids: list[int]) -> Tensor:
    """One caption's state (T, W); positions that hold padding are there but mean nothing."""
    x = weights["embed_tokens.weight"][ids] + weights["embed_positions.weight"][: len(ids)]
    x = norm(x, weights["layernorm_embedding.weight"], weights["layernorm_embedding.bias"])
    words = torch.tensor([word != config.text_pad for word in ids])
    for index in range(config.encoder_layers):
        layer = under(weights, f"layers.{index}.")
        inner = norm(x, None, layer["pre_self_attn_layer_norm.bias"])
        inner = attention(layer, "self_attn", inner, inner, words.expand(len(ids), -1), config.heads)
        x = x + norm(inner, layer["self_attn_layer_norm.weight"], layer["self_attn_layer_norm.bias"])
        x = x + glu(layer, x)
    return norm(x, None, weights["final_ln.bias"])


def plain_decode(weights: Weights, config: DalleBartConfig, text: Tensor, ids: list[int], codes: list[int]) -> Tensor:
    """Logits (len(codes) + 1, image_vocab) of every code after those before it, of one picture."""
    fed = [config.start_code, *codes]
    x = weights["embed_tokens.weight"][fed] + weights["embed_positions.weight"][: len(fed)]
    x = norm(x, weights["layernorm_embedding.weight"], weights["layernorm_embedding.bias"])
    before = torch.ones(len(fed), len(fed), dtype=torch.bool).tril()
    words = torch.tensor([word != config.text_pad for word in ids]).expand(len(fed), -1)
    for index in range(config.decoder_layers):
        layer = under(weights, f"layers.{index}.")
        inner = norm(x, None, layer["pre_self_attn_layer_norm.bias"])
        inner = attention(layer, "self_attn", inner, inner, before, config.heads)
        x = x + norm(inner, layer["self_attn_layer_norm.weight"], layer["self_attn_layer_norm.bias"])
        inner = norm(x, None, layer["pre_encoder_attn_layer_norm.bias"])
        inner = attention(layer, "encoder_attn", inner, text, words, config.heads)
        x = x + norm(inner, layer["encoder_attn_layer_norm.weight"], layer["encoder_attn_layer_norm.bias"])
        x = x + glu(layer, x)
    x = norm(x, None, weights["final_ln.bias"])
    return (x @ weights["lm_head.weight"].T)[:, : config.image_vocab]


def under(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}


def norm(x: Tensor, scale: Tensor | None, shift: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    x = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return (x if scale is None else x * scale) + shift


def glu(layer: Weights, x: Tensor) -> Tensor:
    x = norm(x, None, layer["glu.ln0.bias"])
    gate = x @ layer["glu.fc0.weight"].T
    gate = gate * 0.5 * (1 + torch.erf(gate / 2**0.5))
    x = norm(gate * (x @ layer["glu.fc1.weight"].T), None, layer["glu.ln1.bias"])
    return x @ layer["glu.fc2.weight"].T


def attention(layer: Weights, name: str, x: Tensor, of: Tensor, seen: Tensor, heads: int) -> Tensor:
    """x (N, W) looks at `of` (M, W) where seen (N, M)."""
    q = x @ layer[f"{name}.q_proj.weight"].T
    k = of @ layer[f"{name}.k_proj.weight"].T
    v = of @ layer[f"{name}.v_proj.weight"].T
    parts = []
    for one_q, one_k, one_v in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True):
        scores = one_q @ one_k.T / one_q.shape[1] ** 0.5
        parts.append(scores.masked_fill(~seen, float("-inf")).softmax(1) @ one_v)
    return torch.cat(parts, 1) @ layer[f"{name}.out_proj.weight"].T
