"""CLIP: pictures and captions as unit vectors in one space, on open_clip's towers with our configuration and weights.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021), section 2.
The model is built straight from its configuration: nothing here asks the Hugging Face hub for anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.attention import replace_attention
from worker.models.clip.image_towers import register_towers
from worker.models.errors import ConfigError, check_float, check_shape
from worker.models.text import CaptionTokenizer


class TextRows(NamedTuple):
    """Encoded captions."""

    embeddings: Tensor
    """(B, D), unit length."""
    truncated: list[bool]
    """True where a caption was longer than the model reads."""


def build_network(model_cfg: Mapping[str, Any]) -> nn.Module:
    """open_clip's CLIP of a `model_cfg` (the JSON form of its configuration files), with random weights."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg  # slow to import, and not all models need it

    unknown = set(model_cfg) - {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
    if unknown:
        raise ConfigError(f"unknown CLIP settings: {sorted(unknown)}")
    register_towers()
    try:
        vision, text = CLIPVisionCfg(**model_cfg["vision_cfg"]), CLIPTextCfg(**model_cfg["text_cfg"])
    except (KeyError, TypeError) as error:
        raise ConfigError(f"CLIP configuration: {error}") from error
    if text.hf_model_name or vision.timm_model_pretrained:
        raise ConfigError("a CLIP configuration may not name weights to be downloaded")
    network = CLIP(model_cfg["embed_dim"], vision, text, quick_gelu=bool(model_cfg.get("quick_gelu", False)))
    replace_attention(network)
    return network


class Clip(nn.Module):
    """An open_clip network, its tokenizer and its picture normalisation."""

    mean: Tensor  # (1, 3, 1, 1)
    std: Tensor  # (1, 3, 1, 1)

    def __init__(self, config: Mapping[str, Any], tokenizer: CaptionTokenizer) -> None:
        """`config` is the content of `open_clip_config.json`: `model_cfg` and `preprocess_cfg` {mean, std}."""
        super().__init__()
        model_cfg = config["model_cfg"]
        size = model_cfg["vision_cfg"]["image_size"]
        preprocess = config.get("preprocess_cfg", {})
        self.config = dict(config)
        self.network = build_network(model_cfg)
        self.tokenizer = tokenizer
        self.image_size_px: int = size if isinstance(size, int) else size[0]
        self.context_length: int = model_cfg["text_cfg"]["context_length"]
        self.width: int = model_cfg["embed_dim"]
        if tokenizer.size > model_cfg["text_cfg"]["vocab_size"]:
            raise ConfigError(f"the tokenizer has {tokenizer.size} entries, the text tower fewer")
        mean, std = preprocess.get("mean", [0.5] * 3), preprocess.get("std", [0.5] * 3)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by before a softmax over captions; at most 100."""
        return float(self.network.logit_scale.detach().exp())

    def fit(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) resized to the tower's side: antialiased bicubic down, plain bilinear up."""
        side = self.image_size_px
        if images.shape[-2:] == (side, side):
            return images
        shrinks = images.shape[-1] > side and images.shape[-2] > side
        mode = "bicubic" if shrinks else "bilinear"
        return F.interpolate(images, (side, side), mode=mode, align_corners=False, antialias=shrinks).clamp(0, 1)

    def encode_image(self, images: Tensor) -> Tensor:
        """Unit vectors (B, D) of `images` (B, 3, H, W) in [0, 1], any size; gradients pass to the pictures."""
        check_shape("images", images, (None, 3, None, None))
        check_float("images", images)
        features = self.network.encode_image((self.fit(images) - self.mean) / self.std)
        return F.normalize(features.float(), dim=-1)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (B, D) of captions; `encode_rows` also says which were cut."""
        return self.encode_rows(texts).embeddings

    def encode_rows(self, texts: Sequence[str]) -> TextRows:
        """Unit vectors (B, D) of captions, and which of them were longer than the model reads."""
        rows = self.tokenizer.encode(texts, self.context_length, framed=True)
        return TextRows(self.encode_ids(rows.ids.to(self.mean.device)), rows.truncated)

    def encode_ids(self, ids: Tensor) -> Tensor:
        """Unit vectors (B, D) of framed caption ids (B, context_length)."""
        return F.normalize(self.network.encode_text(ids).float(), dim=-1)


def class_embeddings(clip: Clip, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """One unit vector (N, D) per name: the normalised mean over templates such as "a picture of {}" (section 3.1.4)."""
    total = torch.zeros(len(names), clip.width, device=clip.mean.device)
    for template in templates:
        total = total + clip.encode_text([template.format(name) for name in names])
    return F.normalize(total, dim=-1)
