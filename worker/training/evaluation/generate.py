"""Pictures from the trained models, for measuring and for contact sheets; the product's engines do the same by job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from worker.models.clip.clip import Clip
from worker.models.dalle.dalle import Dalle
from worker.models.dalle.pictures import decode_ids
from worker.models.dalle.rows import RowSettings
from worker.models.dalle.sampler import sample
from worker.models.text import CaptionTokenizer
from worker.models.unclip.diffusion import DiffusionRow
from worker.models.unclip.sampler import codes_of, decoder_sampler, picture_vectors, prior_sampler
from worker.models.unclip.unclip import Unclip
from worker.models.vqgan.vqgan import VQGAN
from worker.models.vqgan_clip.rows import step_alone
from worker.models.vqgan_clip.state import Perceptor, Prompt, Recipe, start
from worker.training.data.pictures import Pictures


@dataclass(frozen=True, slots=True)
class Models:
    """What makes pictures, on one device."""

    clip: Clip
    vqgan: VQGAN
    dalle: Dalle | None
    tokenizer: CaptionTokenizer
    unclip: Unclip | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How DALL-E draws."""

    temperature: float = 1.0
    top_k: int = 256
    top_p: float = 1.0
    guidance: float = 3.0


@torch.no_grad()
def draw_dalle(
    models: Models, prompts: Sequence[str], count: int, settings: Sampling, seed: int = 0, rows: int = 1024
) -> Tensor:
    """Pictures (P, count, 3, 64, 64) in [0, 1], best by CLIP first."""
    dalle = models.dalle
    if dalle is None:
        raise ValueError("no DALL-E among the models")
    out = []
    for begin in range(0, len(prompts), max(1, rows // count)):
        part = prompts[begin : begin + max(1, rows // count)]
        ids = models.tokenizer.encode(part, dalle.config.text_length, framed=False).ids.repeat_interleave(count, 0)
        draw = {"temperature": settings.temperature, "top_k": settings.top_k, "top_p": settings.top_p}
        all_rows = [
            RowSettings(seed=seed, image=index, guidance=settings.guidance, **draw)  # type: ignore[arg-type]
            for _ in part
            for index in range(count)
        ]
        codes = sample(dalle, ids, all_rows, sequences=2 * rows).to(dalle.blank.device)
        out.append(_ranked(models, decode_ids(models.vqgan, codes), part, count))
    return torch.cat(out)


@torch.no_grad()
def draw_unclip(models: Models, prompts: Sequence[str], count: int, seed: int = 0, rows: int = 512) -> Tensor:
    """Pictures (P, count, 3, 64, 64) in [0, 1] by the model's own steps and guidance, best by CLIP first."""
    unclip = models.unclip
    if unclip is None:
        raise ValueError("no unCLIP among the models")
    own, out = unclip.config, []
    for begin in range(0, len(prompts), max(1, rows // count)):
        part = prompts[begin : begin + max(1, rows // count)]
        texts = models.clip.encode_text(list(part)).repeat_interleave(count, 0)
        places = [index for _ in part for index in range(count)]
        prior_rows = [DiffusionRow(seed, index, own.prior_steps, own.prior_guidance) for index in places]
        prior = prior_sampler(unclip, texts, prior_rows)
        while not prior.step():
            pass
        decoder_rows = [DiffusionRow(seed, index, own.decoder_steps, own.guidance) for index in places]
        decoder = decoder_sampler(unclip, models.vqgan, picture_vectors(unclip, prior), decoder_rows)
        while not decoder.step():
            pass
        codes = codes_of(unclip, models.vqgan, decoder.rows)
        out.append(_ranked(models, decode_ids(models.vqgan, codes), part, count))
    return torch.cat(out)


def _ranked(models: Models, images: Tensor, prompts: Sequence[str], count: int) -> Tensor:
    """Pictures (P, count, ...) on the CPU, best by CLIP first, of (P * count, ...)."""
    best = _scores(models.clip, images, prompts, count).argsort(1, descending=True)
    images = images.view(len(prompts), count, *images.shape[1:])
    return images[torch.arange(len(prompts), device=images.device)[:, None], best].cpu()


def _scores(clip: Clip, images: Tensor, prompts: Sequence[str], count: int) -> Tensor:
    """Cosines (P, count) of pictures (P * count, ...) with their own prompts."""
    texts = clip.encode_text(list(prompts))
    vectors = clip.encode_image(images).view(len(prompts), count, -1)
    return torch.einsum("pcd,pd->pc", vectors, texts)


def draw_vqgan_clip(
    models: Models,
    prompts: Sequence[str],
    recipe: Recipe,
    steps: int,
    seed: int = 0,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """Pictures (P, 3, 64, 64) in [0, 1], one run per prompt."""
    out = []
    for index, prompt in enumerate(prompts):
        with torch.no_grad():
            embedding = models.clip.encode_text([prompt])[0]
        perceptors = [Perceptor(models.clip, [Prompt(embedding)])]
        state = start(models.vqgan, perceptors, seed=seed + index, steps=steps, recipe=recipe, autocast=autocast)
        while not state.done:
            step_alone(state)
        out.append(state.image().cpu())
    return torch.cat(out)


def common_names(pictures: Pictures, count: int) -> list[str]:
    """`count` names of things that most designs draw, spread evenly; no faces, people or symbols."""
    designs: dict[str, set[str]] = {}
    for row in pictures.rows:
        if row.group not in (0, 1, 8):
            designs.setdefault(row.name, set()).add(row.design)
    ranked = sorted(designs, key=lambda name: (-len(designs[name]), name))
    pool = sorted(ranked[: max(count, 400)])
    return [pool[index * len(pool) // count] for index in range(count)]


def sheet(images: Tensor, labels: Sequence[str], path: Path, scale: int = 1) -> None:
    """Save pictures (R, C, 3, H, W) in [0, 1] as a grid, one labelled row each."""
    rows, columns, _, height, width = images.shape
    height, width = height * scale, width * scale
    page = Image.new("RGB", (columns * (width + 4), rows * (height + 16)), "white")
    draw = ImageDraw.Draw(page)
    for row in range(rows):
        draw.text((2, row * (height + 16)), labels[row][:60], fill="black")
        for column in range(columns):
            pixels = (images[row, column].permute(1, 2, 0) * 255).round().to(torch.uint8).cpu().numpy()
            picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
            page.paste(picture, (column * (width + 4), row * (height + 16) + 13))
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)
