"""What a step of each training stage costs on one core, at the card's sizes, and what the choice of attention does.

Seconds of processor time, so that a machine busy with other things measures the same. Pictures are noise of the data
set's sizes: a step costs the same whatever it shows. CLIP's and DALL-E's steps are taken in turns with the attention
that `worker.training.loop.mixed` chooses and with torch's own choice.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.benchmarks.report import Report
from worker.models.text import CaptionTokenizer
from worker.models.vqgan.vqgan import VQGAN
from worker.training.data.captions import train_tokenizer
from worker.training.data.pictures import SIDE, Pictures, Row
from worker.training.recipes import clip, dalle
from worker.training.recipes.vqgan import VQGANRecipe, VQGANTrainer

THINGS, DESIGNS = 1_652, 2
STEPS = 5  # timed, after one that warms up
CPU = torch.device("cpu")


def run(report: Report) -> None:
    """Three stages."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pictures = _noise()
        tokenizer = CaptionTokenizer(train_tokenizer(pictures.rows))
        _clip(report, pictures, tokenizer)
        _vqgan(report, pictures)
        _dalle(report, pictures, tokenizer)
    finally:
        torch.set_num_threads(threads)


def _noise() -> Pictures:
    count = THINGS * DESIGNS
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    rows = []
    for index in range(count):
        thing = index % THINGS
        words = (f"a kind of {thing % 31}", f"number {thing % 7}")
        rows.append(Row(f"{index}", "noise", f"{thing}", f"thing {thing}", (), words, 4, "noise", "1", "CC0-1.0", ""))
    return Pictures(images, rows)


@contextmanager
def _fused(device: torch.device) -> Iterator[None]:
    """`loop.mixed` as it would be without the choice of attention."""
    with torch.autocast(device.type, torch.bfloat16):
        yield


@contextmanager
def _full(_device: torch.device) -> Iterator[None]:
    """`loop.mixed` as it would be without bf16."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def _clip(report: Report, pictures: Pictures, tokenizer: CaptionTokenizer) -> None:
    recipe = clip.ClipRecipe(batch=256, robust=0.0, rivals=64, context_length=16)
    trainer = clip.ClipTrainer(recipe, pictures, tokenizer, CPU)
    _both(report, "train_clip_256_step", clip, lambda: trainer.step(1e-4, 0.5))


def _vqgan(report: Report, pictures: Pictures) -> None:
    recipe = VQGANRecipe(batch=32, plain_steps=0, perceptual=0.0, changed=0.25, adversarial_from=2.0)
    trainer = VQGANTrainer(recipe, pictures, None, CPU)
    trainer.step(1e-4, 0.1)
    report.add("train_vqgan_32_step_s", statistics.median(_timed(lambda: trainer.step(1e-4, 0.1), STEPS)), "s")


def _dalle(report: Report, pictures: Pictures, tokenizer: CaptionTokenizer) -> None:
    recipe = dalle.DalleRecipe(batch=64, versions=1, captions=2, recoloured=0.0)
    few = Pictures(pictures.images[:256], pictures.rows[:256])
    vqgan = VQGAN(VQGANRecipe().config).eval()
    trainer = dalle.DalleTrainer(recipe, few, vqgan, tokenizer, CPU)
    _both(report, "train_dalle_64_step", dalle, lambda: trainer.step(1e-4))


def _both(report: Report, name: str, stage: Any, step: Callable[[], Any]) -> None:
    """Seconds per step as `mixed` has it, and beside it with torch's own choice of attention, and in full precision."""
    variants: dict[str, tuple[Any, str]] = {
        "": (stage.mixed, ""),
        "_fused": (_fused, "torch's choice of attention"),
        "_float32": (_full, "no bf16"),
    }
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    for turn in range(STEPS + 1):
        for variant, (context, _) in variants.items():
            with patch.object(stage, "mixed", context):
                taken = _timed(step, 1)
            if turn:
                seconds[variant] += taken
    for variant, (_, peer) in variants.items():
        report.add(f"{name}{variant}_s", statistics.median(seconds[variant]), "s", peer=peer)


def _timed(step: Callable[[], Any], count: int) -> list[float]:
    out = []
    for _ in range(count):
        started_at = time.process_time()
        step()
        out.append(time.process_time() - started_at)
    return out
