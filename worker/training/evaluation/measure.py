"""Figures of trained models on the held-out design and on generated pictures. Names as in `out/bench.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.models.clip.clip import Clip, class_embeddings
from worker.models.vqgan.vqgan import VQGAN, psnr
from worker.training.data.pictures import Pictures

TEMPLATES = ("{}", "a picture of a {}", "{} emoji")


@dataclass(frozen=True, slots=True)
class Figure:
    """What a figure is held against."""

    unit: str
    of: tuple[str, ...]  # the models without which it cannot be measured
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str:
        """The bound as people write it."""
        bound, sign = (self.at_least, ">=") if self.at_least is not None else (self.at_most, "<=")
        return f"{sign} {bound:g} {self.unit}"

    def is_met(self, value: float) -> bool:
        """True if the value keeps the bound."""
        return value >= self.at_least if self.at_least is not None else value <= (self.at_most or 0.0)


FIGURES: Mapping[str, Figure] = {
    "clip_heldout_top1": Figure("%", ("clip",), at_least=40),
    "clip_heldout_top5": Figure("%", ("clip",), at_least=65),
    "clip_heldout_recall_at_10": Figure("%", ("clip",), at_least=65),
    "vqgan_heldout_psnr_db": Figure("dB", ("vqgan",), at_least=22),
    "vqgan_codebook_usage": Figure("%", ("vqgan",), at_least=90),
    "dalle_judged_top5": Figure("%", ("dalle", "judge"), at_least=70),
    "unclip_judged_top5": Figure("%", ("unclip", "judge"), at_least=70),
    "vqgan_clip_judged_top5": Figure("%", ("vqgan", "judge"), at_least=50),
    "dalle_16_keep_4_s": Figure("s", ("dalle",), at_most=4),
    "unclip_4_s": Figure("s", ("unclip",), at_most=15),
    "vqgan_clip_200_s": Figure("s", ("vqgan",), at_most=40),
}  # seconds are measured through the whole system: tests/benchmarks/models.py
CHUNK = 256  # pictures per forward pass


def _chunks(images: Tensor, clip: Clip) -> Tensor:
    parts = [clip.encode_image(part.to(clip.mean.device).float() / 255.0) for part in images.split(CHUNK)]
    return torch.cat(parts)


@torch.inference_mode()
def clip_figures(clip: Clip, pictures: Pictures) -> dict[str, float]:
    """Zero-shot top 1 and top 5 (%) over all names of `pictures`, and text-to-picture recall at 10 (%).

    Pictures may share a name, as in sets of one's own; a name finds its picture if it finds any of them.
    """
    names = list(dict.fromkeys(row.name for row in pictures.rows))
    place = {name: index for index, name in enumerate(names)}
    scores = _chunks(pictures.images, clip) @ class_embeddings(clip, names, TEMPLATES).t()  # (N, names)
    things = torch.tensor([place[row.name] for row in pictures.rows], device=scores.device)
    right = things[:, None] == torch.arange(len(names), device=scores.device)  # (N, names)
    return {
        "clip_heldout_top1": share_right(scores, right, 1),
        "clip_heldout_top5": share_right(scores, right, 5),
        "clip_heldout_recall_at_10": share_right(scores.t(), right.t(), 10),
    }


def share_right(scores: Tensor, right: Tensor, k: int) -> float:
    """% of rows of (N, M) scores with a `right` (N, M) one among the row's k greatest."""
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return 100.0 * float(right.gather(1, best).any(1).float().mean())


@torch.inference_mode()
def vqgan_figures(vqgan: VQGAN, pictures: Pictures) -> dict[str, float]:
    """Mean PSNR (dB) of reconstructions and the share (%) of codes that they use."""
    weight = vqgan.quantize.embedding.weight
    used = torch.zeros(vqgan.config.codes, dtype=torch.bool, device=weight.device)
    values = []
    for part in pictures.images.split(CHUNK):
        images = part.to(weight.device).to(weight.dtype) / 127.5 - 1.0
        decoded, quantized = vqgan(images)
        values.append(psnr(images, decoded))
        used[quantized.indices.unique()] = True
    return {
        "vqgan_heldout_psnr_db": float(torch.cat(values).mean()),
        "vqgan_codebook_usage": 100.0 * float(used.float().mean()),
    }


@torch.inference_mode()
def judged(judge: Clip, images: Tensor, right: Sequence[int], names: Sequence[str], k: int = 5) -> float:
    """% of generated pictures (B, 3, H, W) in [0, 1] whose true name is among the judge's k best of `names`."""
    scores = judge.encode_image(images.to(judge.mean.device)) @ class_embeddings(judge, names, TEMPLATES).t()
    truth = torch.tensor(right, device=scores.device)[:, None]
    return share_right(scores, truth == torch.arange(len(names), device=scores.device), k)
