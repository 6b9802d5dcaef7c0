"""What unCLIP learns from: the codes of pictures, CLIP's vectors of pictures and captions, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.models.clip.clip import Clip
from worker.models.vqgan.vqgan import VQGAN
from worker.training.loop import mixed
from worker.training.recipes.dalle import encode_all, versions_of

CHUNK = 512  # pictures or captions per forward pass of the frozen models


@dataclass(frozen=True, slots=True)
class Frozen:
    """The models that unCLIP stands on."""

    clip: Clip
    vqgan: VQGAN


class VectorBank:
    """Of N pictures: codes (N, K, cells) int16 and picture vectors (N, K, D) of K versions, caption vectors (U, D) and
    which of them belong to each picture (N, C)."""

    def __init__(self, codes: Tensor, pictures: Tensor, texts: Tensor, captions: Tensor) -> None:
        self.codes, self.pictures, self.texts, self.captions = codes, pictures, texts, captions

    def _draw(self, high: int, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(0, high, (count,), device=self.codes.device, generator=generator)

    def views(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Codes (count, cells) int64 and picture vectors (count, D) at random."""
        pictures, versions, _ = self.codes.shape
        rows, views = self._draw(pictures, count, generator), self._draw(versions, count, generator)
        return self.codes[rows, views].long(), self.pictures[rows, views].float()

    def pairs(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Caption vectors and picture vectors (count, D) at random."""
        pictures, versions, _ = self.pictures.shape
        rows, views = self._draw(pictures, count, generator), self._draw(versions, count, generator)
        captions = self.captions[rows, self._draw(self.captions.shape[1], count, generator)]
        return self.texts[captions.long()].float(), self.pictures[rows, views].float()


@torch.no_grad()
def picture_rows(clip: Clip, images: Tensor) -> Tensor:
    """CLIP's vectors (N, D), float16, of pictures (N, 3, H, W) in [0, 1]."""
    rows = []
    for part in images.split(CHUNK):
        with mixed(images.device):  # a fifth of float32's time on CPUs
            vectors = clip.encode_image(part.contiguous(memory_format=torch.channels_last))
        rows.append(vectors.half())
    return torch.cat(rows)


@torch.no_grad()
def caption_rows(clip: Clip, captions: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
    """CLIP's vectors (U, D), float16, of all different captions, and the place of each (N, C) among them."""
    place = {text: index for index, text in enumerate(dict.fromkeys(text for row in captions for text in row))}
    texts = list(place)
    rows = [clip.encode_text(texts[begin : begin + CHUNK]).half() for begin in range(0, len(texts), CHUNK)]
    index = torch.tensor([[place[text] for text in row] for row in captions], dtype=torch.int32)
    return torch.cat(rows), index.to(rows[0].device)


def bank_of(
    images: Tensor, captions: Sequence[Sequence[str]], versions: int, frozen: Frozen, generator: torch.Generator
) -> VectorBank:
    """Everything a run needs of pictures (N, 3, H, W) in [0, 1] on the device."""
    codes, pictures = [], []
    for version in versions_of(images, versions, generator):
        codes.append(encode_all(frozen.vqgan, version))
        pictures.append(picture_rows(frozen.clip, version))
    return VectorBank(torch.stack(codes, 1), torch.stack(pictures, 1), *caption_rows(frozen.clip, captions))
