"""VQGAN: shapes, names, gradients, the codebook."""

from __future__ import annotations

import pytest
import torch

from worker.models.errors import ConfigError, RangeError, ShapeError
from worker.models.vqgan.vqgan import VQGAN, VQGANConfig, psnr


def test_a_picture_goes_there_and_back(vqgan: VQGAN) -> None:
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    latent = vqgan.encode(images)
    quantized, indices, loss = vqgan.quantize(latent)
    assert latent.shape == quantized.shape == (2, 4, 8, 12)
    assert indices.shape == (2, 8, 12)
    assert indices.dtype == torch.int64
    assert loss.ndim == 0
    assert vqgan.decode(quantized).shape == images.shape
    torch.testing.assert_close(vqgan.decode_indices(indices), vqgan.decode(quantized), atol=1e-5, rtol=1e-4)


def test_the_gradient_passes_the_codebook_unchanged(vqgan: VQGAN) -> None:
    latent = torch.randn(1, 4, 3, 3, requires_grad=True)
    wanted = torch.randn(1, 4, 3, 3)
    (vqgan.quantize(latent)[0] * wanted).sum().backward()
    assert latent.grad is not None
    torch.testing.assert_close(latent.grad, wanted)


def test_the_nearest_code_is_the_nearest(vqgan: VQGAN) -> None:
    latent = torch.randn(2, 4, 5, 5)
    flat = latent.permute(0, 2, 3, 1).reshape(-1, 4)
    wanted = torch.cdist(flat, vqgan.quantize.embedding.weight).argmin(1).view(2, 5, 5)
    assert torch.equal(vqgan.quantize.nearest(latent), wanted)


def test_the_codebook_range_bounds_every_code(vqgan: VQGAN) -> None:
    low, high = vqgan.codebook_range()
    weight = vqgan.quantize.embedding.weight
    assert ((weight >= low) & (weight <= high)).all()
    assert low.shape == high.shape == (4,)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 16, 16), (1, 3, 15, 16)])
def test_wrong_shapes_are_refused(vqgan: VQGAN, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        vqgan.encode(torch.zeros(shape))


def test_integers_and_foreign_codes_are_refused(vqgan: VQGAN) -> None:
    with pytest.raises(RangeError):
        vqgan.encode(torch.zeros(1, 3, 16, 16, dtype=torch.int64))
    with pytest.raises(RangeError):
        vqgan.decode_indices(torch.full((1, 8, 8), 32))


def test_a_config_survives_json_and_refuses_the_unknown(vqgan: VQGAN) -> None:
    values = vqgan.config.to_dict()
    assert VQGANConfig.from_dict(values) == vqgan.config
    with pytest.raises(ConfigError):
        VQGANConfig.from_dict({**values, "chanels": 8})
    with pytest.raises(ConfigError):
        VQGANConfig(channels=8, groups=3)


def test_the_public_checkpoint_would_fit() -> None:
    """taming's f16-1024: 72,141,699 weights under 343 names (research/vqgan_clip.md, section 3)."""
    with torch.device("meta"):
        model = VQGAN(VQGANConfig())
    state = model.state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == 72_141_699
    assert len(state) == 343
    for name in (
        "encoder.conv_in.weight", "encoder.down.1.block.0.norm1.weight", "encoder.down.2.block.0.nin_shortcut.weight",
        "encoder.down.4.attn.1.proj_out.bias", "encoder.down.3.downsample.conv.weight", "encoder.mid.attn_1.q.weight",
        "decoder.up.4.block.2.conv2.weight", "decoder.up.4.attn.2.k.weight", "decoder.up.1.upsample.conv.bias",
        "decoder.norm_out.weight", "quantize.embedding.weight", "quant_conv.weight", "post_quant_conv.bias",
    ):  # fmt: skip
        assert name in state, name
    assert "decoder.up.0.upsample.conv.weight" not in state


def test_psnr_of_a_known_error() -> None:
    flat = torch.zeros(1, 3, 4, 4)
    assert float(psnr(flat, flat + 0.2)) == pytest.approx(20.0, abs=1e-3)
