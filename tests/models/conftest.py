"""Tiny models with random weights: every shape is real, nothing is learnt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from worker.models.clip.clip import Clip
from worker.models.dalle.dalle import Dalle, DalleConfig
from worker.models.text import CaptionTokenizer
from worker.models.unclip.unclip import Unclip, UnclipConfig
from worker.models.vqgan.vqgan import VQGAN, VQGANConfig

TINY_VQGAN = VQGANConfig(
    channels=8,
    multipliers=(1, 2),
    encoder_blocks=1,
    decoder_blocks=1,
    attention_at=(8,),
    resolution=16,
    z_channels=8,
    code_width=4,
    codes=32,
    groups=4,
)
TINY_DALLE = DalleConfig(
    text_vocab=300, text_length=6, image_vocab=32, grid=4, width=32, layers=2, heads=2, text_width=16
)
SMALL_VQGAN = replace(TINY_VQGAN, resolution=8, attention_at=())  # 4x4 codes, as TINY_DALLE's and TINY_UNCLIP's
TINY_UNCLIP = UnclipConfig(
    embedding=8, channels=4, grid=4, width=16, layers=1, heads=2, extra_tokens=2, prior_width=16, prior_layers=1,
    prior_steps=4, decoder_steps=6,
)  # fmt: skip


def tiny_tokenizer() -> Tokenizer:
    """A byte-level tokenizer that learnt almost nothing."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<pad>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["a red apple", "a blue heart", "a tree"] * 5, trainer)
    tokenizer.add_special_tokens(["<start>", "<end>"])
    return tokenizer


def tiny_unclip() -> Unclip:
    """A network whose condition matters: a fresh one's modulations and last layer are zero."""
    model = Unclip(TINY_UNCLIP)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval().requires_grad_(False)


def tiny_clip_config() -> dict[str, Any]:
    """open_clip's configuration of a CLIP of a few thousand weights."""
    vision = {"image_size": 16, "timm_model_name": "dreamqueue_resnet_tiny", "timm_pool": "avg", "timm_proj": "linear"}
    text = {"context_length": 12, "vocab_size": 300, "width": 16, "heads": 2, "layers": 1}
    return {"model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}}


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def tokenizer() -> CaptionTokenizer:
    return CaptionTokenizer(tiny_tokenizer())


@pytest.fixture
def vqgan() -> VQGAN:
    return VQGAN(TINY_VQGAN).eval().requires_grad_(False)


@pytest.fixture
def dalle() -> Dalle:
    return Dalle(TINY_DALLE).eval().requires_grad_(False)


@pytest.fixture
def clip(tokenizer: CaptionTokenizer) -> Clip:
    return Clip(tiny_clip_config(), tokenizer).eval().requires_grad_(False)


@pytest.fixture
def small_vqgan() -> VQGAN:
    return VQGAN(SMALL_VQGAN).eval().requires_grad_(False)


@pytest.fixture
def unclip() -> Unclip:
    return tiny_unclip()
