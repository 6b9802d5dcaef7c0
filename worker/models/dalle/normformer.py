"""Blocks of dalle-mini's transformers: every product stands between two norms, none has a bias.

Sources: Shleifer, Weston, Ott, "NormFormer" (2021), for the norm after each attention and inside the feed-forward part;
Shazeer, "GLU Variants Improve Transformer" (2020); which norms scale and which only shift: dalle-mini,
src/dalle_mini/model/modeling.py with `ln_positions=normformer`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.attention import attend_rows
from worker.models.dense import Dense

EPS = 1e-5  # of every norm


class Shift(nn.Module):
    """Layer norm that is shifted but not scaled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape (..., width)."""
        return F.layer_norm(x, self.bias.shape, None, self.bias, EPS)


class GLU(nn.Module):
    """gelu(a) * b of one product, normed before and after."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = Shift(width)
        self.up = Dense(width, 2 * hidden, bias=False)
        self.inner_norm = Shift(hidden)
        self.down = Dense(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) to (..., W), the residual not added."""
        gate, value = self.up(self.norm(x)).chunk(2, -1)  # each (..., hidden), never in one piece but for a lone row
        if gate.is_contiguous():  # for which torch has another kernel, with other last bits
            return self.down(self.inner_norm(F.gelu(gate.expand(2, *gate.shape))[0] * value))
        return self.down(self.inner_norm(F.gelu(gate) * value))


class SelfAttention(nn.Module):
    """Queries, keys and values of one product, between its two norms."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = Shift(width)
        self.qkv = Dense(width, 3 * width, bias=False)
        self.out = Dense(width, width, bias=False)
        self.out_norm = nn.LayerNorm(width, EPS)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Whole sequences (B, T, W), `mask` (B, 1, T or 1, T) added to the scores; the residual not added."""
        return self.read(x, mask)[0]

    def read(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `forward` returns, and the keys and values, each (B, heads, T, d)."""
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, heads, T, d)
        return self.out_norm(self.out(attended.transpose(1, 2).flatten(2))), k, v

    def step(self, x: Tensor, keys: Tensor, values: Tensor, place: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """One position of each row (S, W), written to the cache (B, heads, length, d) at `place`: row, slot.

        `mask` (S, seen) is added to the scores of the first `seen` slots; the residual not added.
        """
        row, slot = place
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).unbind(1)  # each (S, heads, d)
        keys[row, :, slot] = k.to(keys.dtype)
        values[row, :, slot] = v.to(values.dtype)
        return self.out_norm(self.out(attend_rows(q.unsqueeze(2), keys, values, mask).flatten(1)))


class CrossAttention(nn.Module):
    """From a code to the caption, whose keys and values are made once."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = Shift(width)
        self.q = Dense(width, width, bias=False)
        self.kv = Dense(width, 2 * width, bias=False)
        self.out = Dense(width, width, bias=False)
        self.out_norm = nn.LayerNorm(width, EPS)

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Of the encoder's result (P, T, W): two of (P, heads, T, d)."""
        kv = self.kv(text).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (2, P, heads, T, d)
        return kv[0], kv[1]

    def step(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """One position of each row (S, W) over the first slots of (B, heads, T, d), `mask` (S, seen)."""
        q = self.q(self.norm(x)).unflatten(-1, (self.heads, -1))  # (S, heads, d)
        return self.out_norm(self.out(attend_rows(q.unsqueeze(2), keys, values, mask).flatten(1)))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Several positions of each row (n, N, W) over all of (n, heads, T, d), `mask` (n, 1, 1, T)."""
        q = self.q(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (n, heads, N, d)
        attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return self.out_norm(self.out(attended.transpose(1, 2).flatten(2)))


def hidden(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Marks of any shape to what is added to a softmax's scores: 0 where seen, else minus infinity."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))
