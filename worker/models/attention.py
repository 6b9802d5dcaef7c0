"""Attention in two forms that torch does slowly: one new position per row over a cache, and torch's own module."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.errors import ShapeError


def attend_rows(q: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
    """(S, heads, 1, d) of queries of that shape over the first L slots of a cache (B, heads, length, d), B >= S.

    hidden (S, L) is added to the scores: 0 where a row may look, -inf where not. On a CPU this is two batched matrix
    products: torch's own kernel takes three to five times as long for a single query per row.
    """
    rows, heads, _, d = q.shape
    live = hidden.shape[1]
    if q.device.type != "cpu":
        k, v = keys[:rows, :, :live].to(q.dtype), values[:rows, :, :live].to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=hidden[:, None, None])
    k = keys[:rows].flatten(0, 1)[:, :live].to(q.dtype)  # (S * heads, L, d), a view
    v = values[:rows].flatten(0, 1)[:, :live].to(q.dtype)
    bias = hidden[:, None].expand(-1, heads, -1).reshape(rows * heads, 1, live)
    scores = torch.baddbmm(bias, q.reshape(rows * heads, 1, d), k.transpose(1, 2), alpha=d**-0.5)
    return torch.bmm(scores.softmax(-1), v).view(rows, heads, 1, d)


class SelfAttention(nn.Module):
    """An nn.MultiheadAttention(batch_first=True) of self-attention, by the same weights under the same names.

    torch's turns the sequence first, and then multiplies a transposed input: with autocast on a CPU that copies the
    weights once per position, 40 % of a 256x256 VQGAN+CLIP step with ViT-B/32 (decision 0008).
    """

    def __init__(self, like: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = like.num_heads
        self.in_proj_weight, self.in_proj_bias = like.in_proj_weight, like.in_proj_bias
        self.out_proj = like.out_proj

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """(N, L, W), and no weights. `key`, `value`: the query itself. attn_mask (L, L) is added to the scores."""
        if key is not query or value is not query or need_weights:
            raise ShapeError("this is self-attention, and tells no weights")
        x = F.linear(query.contiguous(), self.in_proj_weight, self.in_proj_bias)
        q, k, v = x.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (N, heads, L, d)
        mask = None if attn_mask is None else attn_mask.to(q.dtype)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None


def replace_attention(network: nn.Module) -> None:
    """Put SelfAttention in the place of every nn.MultiheadAttention whose batch comes first."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MultiheadAttention) and child.batch_first and child.in_proj_weight is not None:
                setattr(module, name, SelfAttention(child))
