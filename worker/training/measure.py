"""Figures of trained models on the held-out design and on generated pictures. Names as in `out/bench.jsonl`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.models.clip import Clip, class_embeddings
from worker.models.vqgan import VQGAN, psnr
from worker.training.data import Pictures

TEMPLATES = ("{}", "a picture of a {}", "{} emoji")
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
