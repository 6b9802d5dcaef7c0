"""The measure anyone can rerun: figures on the held-out design, and of generated pictures before the judge."""

from __future__ import annotations

import torch
from torch import Tensor

from worker.models.clip import Clip
from worker.models.vqgan_clip import Recipe
from worker.training.data import Pictures
from worker.training.generate import Models, Sampling, common_names, draw_dalle, draw_vqgan_clip
from worker.training.measure import clip_figures, judged, vqgan_figures


def measure_models(models: Models, held_out: Pictures, judge: Clip | None) -> dict[str, float]:
    """CLIP's and VQGAN's figures, and the judge's own CLIP figures under `judge_`."""
    figures = clip_figures(models.clip, held_out) | vqgan_figures(models.vqgan, held_out)
    if judge is not None:
        figures |= {f"judge_{name}": value for name, value in clip_figures(judge, held_out).items()}
    return figures


def places(names: list[str], held_out: Pictures) -> tuple[list[int], list[str]]:
    """Where `names` stand among all names of the held-out design, appending those it lacks."""
    every = list(dict.fromkeys([*(row.name for row in held_out.rows), *names]))
    place = {name: index for index, name in enumerate(every)}
    return [place[name] for name in names], every


def measure_dalle(
    models: Models,
    judge: Clip,
    held_out: Pictures,
    names: list[str],
    settings: Sampling,
    count: int = 16,
    seed: int = 0,
) -> tuple[dict[str, float], Tensor]:
    """Best of `count` by the steering CLIP, before the judge; the best pictures (N, 3, 64, 64)."""
    best = draw_dalle(models, names, count, settings, seed)
    right, every = places(names, held_out)
    first = best[:, 0]
    figures = {
        "dalle_judged_top1": judged(judge, first, right, every, 1),
        "dalle_judged_top5": judged(judge, first, right, every, 5),
        "dalle_unranked_top5": judged(judge, best[:, -1], right, every, 5),
    }
    return figures, best


def measure_vqgan_clip(
    models: Models, judge: Clip, held_out: Pictures, names: list[str], recipe: Recipe, steps: int = 200,
    autocast: torch.dtype | None = None, seed: int = 0,
) -> tuple[dict[str, float], Tensor]:  # fmt: skip
    """One run per name, before the judge; the pictures (N, 3, 64, 64)."""
    images = draw_vqgan_clip(models, names, recipe, steps, seed, autocast)
    right, every = places(names, held_out)
    figures = {f"vqgan_clip_judged_top{k}": judged(judge, images, right, every, k) for k in (1, 5)}
    figures["vqgan_clip_steered_top5"] = judged(models.clip, images, right, every, 5)
    return figures, images


def names_for(pictures: Pictures) -> tuple[list[str], list[str]]:
    """The 200 names of the DALL-E figure and the 50 of the VQGAN+CLIP figure."""
    return common_names(pictures, 200), common_names(pictures, 50)
