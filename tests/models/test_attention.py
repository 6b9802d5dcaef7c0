"""Our two forms of attention say what torch's own say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from worker.models.attention import SelfAttention, attend_rows, replace_attention
from worker.models.errors import ShapeError


@pytest.mark.parametrize("is_masked", [False, True])
def test_self_attention_is_torchs(is_masked: bool) -> None:
    theirs = nn.MultiheadAttention(24, 3, batch_first=True)
    nn.init.normal_(theirs.in_proj_bias)
    nn.init.normal_(theirs.out_proj.bias)
    ours, x = SelfAttention(theirs), torch.randn(5, 7, 24, requires_grad=True)
    mask = torch.full((7, 7), float("-inf")).triu(1) if is_masked else None
    wanted = theirs(x, x, x, need_weights=False, attn_mask=mask)[0]
    found = ours(x, x, x, need_weights=False, attn_mask=mask)[0]
    gap = float((found - wanted).detach().abs().max())
    assert gap < 1e-5, f"outputs differ by {gap}"
    pulls = [torch.autograd.grad(out.square().sum(), x)[0] for out in (wanted, found)]
    gap = float((pulls[0] - pulls[1]).abs().max())
    assert gap < 1e-4, f"gradients differ by {gap}"


def test_it_takes_the_place_and_the_names() -> None:
    layer = nn.Sequential(nn.TransformerEncoderLayer(24, 3, 48, batch_first=True))
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    replace_attention(layer)
    assert any(isinstance(module, SelfAttention) for module in layer.modules())
    assert layer.state_dict().keys() == before.keys()
    layer.load_state_dict(before)


def test_attention_to_others_is_refused() -> None:
    x, other = torch.randn(2, 3, 24), torch.randn(2, 3, 24)
    with pytest.raises(ShapeError):
        SelfAttention(nn.MultiheadAttention(24, 3, batch_first=True))(x, other, other)


def test_a_row_attends_to_what_it_has_seen() -> None:
    queries, keys, values = (torch.randn(4, 2, length, 8) for length in (1, 11, 11))
    seen = torch.tensor([1, 4, 9, 6])
    hidden = torch.zeros(3, 9).masked_fill(torch.arange(9) >= seen[:3, None], float("-inf"))
    found = attend_rows(queries[:3], keys, values, hidden)
    for row, count in enumerate(seen[:3].tolist()):
        wanted = F.scaled_dot_product_attention(queries[row], keys[row, :, :count], values[row, :, :count])
        gap = float((found[row] - wanted).abs().max())
        assert gap < 1e-5, f"row {row} differs by {gap}"
