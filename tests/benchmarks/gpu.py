"""The engines' figures that need a GPU, at the published shapes with random weights; without one they are only named.

Never run on a GPU yet; `Shapes` can be made small, and then all of it runs on a CPU.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from tests.benchmarks.latents import VIT_B_32
from tests.benchmarks.report import Report
from tests.models.conftest import tiny_tokenizer
from worker.engines.images import to_tensor
from worker.models.clip.clip import Clip
from worker.models.dalle.dalle_bart import PRESETS, DalleBart, DalleBartConfig
from worker.models.dalle.pictures import decode_ids
from worker.models.dalle.rows import RowSettings
from worker.models.dalle.sampler import sample
from worker.models.text import CaptionTokenizer
from worker.models.vqgan.vqgan import VQGAN, VQGANConfig
from worker.models.vqgan_clip.guidance import CutSettings
from worker.models.vqgan_clip.rows import LatentRows
from worker.models.vqgan_clip.state import Perceptor, Prompt, Recipe, start

__all__ = ["Shapes", "run_gpu"]

# dalle-mega, fp16: bytes that a step must read, weights and a guided picture's keys and values (research/dalle.md 4)
WEIGHT_BYTES, ROW_BYTES, H100_BYTES_PER_S = 2.483e9, 2 * 37.7e6, 3.35e12
BOUNDS = {
    "gpu_mega_3x3_s": ("s", None, 0.6),
    "gpu_mega_pictures_per_s": ("pictures/s", 80.0, None),
    "gpu_mega_share_of_roofline": ("share", None, None),
    "gpu_vqgan_clip_512_iterations_per_s": ("iterations/s", 60.0, None),
    "gpu_clip_images_per_s": ("images/s", 2_500.0, None),
}


@dataclass(frozen=True)
class Shapes:
    """What is measured; the defaults are the published sizes."""

    device: str = "cuda"
    mega: DalleBartConfig = field(default_factory=lambda: PRESETS["mega"])
    vqgan: VQGANConfig = field(default_factory=lambda: VQGANConfig(codes=16384))
    clip: dict[str, Any] = field(default_factory=lambda: VIT_B_32)
    pictures: int = 64  # at once, sustained
    side: int = 512
    cuts: int = 32
    jobs: int = 8
    steps: int = 20
    files: int = 2_048  # PNGs


def run_gpu(report: Report, shapes: Shapes | None = None) -> None:
    """Every figure, or on a machine without a GPU which ones were not taken."""
    if shapes is None and not torch.cuda.is_available():
        print(f"   no GPU here, so not taken: {', '.join(BOUNDS)}")
        return
    shapes = shapes or Shapes()
    for part in (_mega, _latents, _clip):
        for name, value in part(shapes).items():
            unit, at_least, at_most = BOUNDS[name]
            report.add(name, value, unit, at_least=at_least, at_most=at_most)


def _mega(shapes: Shapes) -> dict[str, float]:
    """A 3x3 grid from its caption to its pictures; as many pictures as fill the batch; both after one to warm up."""
    half = torch.float16 if shapes.device == "cuda" else torch.float32
    with torch.device(shapes.device):
        model = DalleBart(shapes.mega).to(half).eval().requires_grad_(False)
        vqgan = VQGAN(shapes.vqgan).eval().requires_grad_(False)
    ids = model.blank.cpu()

    def draw(count: int) -> None:
        rows = [RowSettings(seed=0, image=index, guidance=16.0) for index in range(count)]
        codes = sample(model, ids.expand(count, -1), rows, sequences=2 * shapes.pictures)
        for part in codes.split(16):
            decode_ids(vqgan, part.to(shapes.device))

    grid_s, many_s = _seconds(lambda: draw(9), shapes), _seconds(lambda: draw(shapes.pictures), shapes)
    least_s = model.image_length * (WEIGHT_BYTES + shapes.pictures * ROW_BYTES) / H100_BYTES_PER_S
    return {
        "gpu_mega_3x3_s": grid_s,
        "gpu_mega_pictures_per_s": shapes.pictures / many_s,
        "gpu_mega_share_of_roofline": least_s / many_s,
    }


def _latents(shapes: Shapes) -> dict[str, float]:
    """Iterations of all jobs together, in bf16."""
    with torch.device(shapes.device):
        vqgan = VQGAN(shapes.vqgan).eval().requires_grad_(False)
        clip = _clip_of(shapes)
        target = F.normalize(torch.randn(clip.width), dim=0)
    states = [
        start(
            vqgan, [Perceptor(clip, [Prompt(target)])], seed=seed, steps=10_000, size=(shapes.side, shapes.side),
            recipe=Recipe(cuts=CutSettings(cuts=shapes.cuts, full=min(8, shapes.cuts))), init="codes",
            autocast=torch.bfloat16 if shapes.device == "cuda" else None,
        )
        for seed in range(shapes.jobs)
    ]  # fmt: skip
    rows = LatentRows(states[0])
    rows.push(states)

    def steps() -> None:
        for _ in range(shapes.steps):
            rows.step()

    return {"gpu_vqgan_clip_512_iterations_per_s": shapes.jobs * shapes.steps / _seconds(steps, shapes)}


def _clip(shapes: Shapes) -> dict[str, float]:
    """From PNG bytes to unit vectors: files are read by threads while those before them are looked at."""
    with torch.device(shapes.device):
        clip = _clip_of(shapes)
    side, buffer = clip.image_size_px, io.BytesIO()
    Image.effect_noise((side, side), 60).convert("RGB").save(buffer, "PNG")
    body = buffer.getvalue()

    def read(_: int) -> torch.Tensor:
        return to_tensor(Image.open(io.BytesIO(body)).convert("RGB"), (side, side))

    def embed() -> None:
        autocast = torch.autocast(shapes.device, torch.bfloat16, enabled=shapes.device == "cuda")
        with ThreadPoolExecutor(os.cpu_count()) as pool, torch.inference_mode(), autocast:
            coming = pool.map(read, range(shapes.files))
            while batch := [picture for _, picture in zip(range(256), coming, strict=False)]:
                clip.encode_image(torch.cat(batch).to(shapes.device))

    return {"gpu_clip_images_per_s": shapes.files / _seconds(embed, shapes)}


def _clip_of(shapes: Shapes) -> Clip:
    return Clip(shapes.clip, CaptionTokenizer(tiny_tokenizer())).eval().requires_grad_(False)


def _seconds(run: Callable[[], None], shapes: Shapes) -> float:
    """Of the second run, the device's work included."""
    for _ in range(2):
        began = time.perf_counter()
        run()
        if shapes.device == "cuda":
            torch.cuda.synchronize()
        took_s = time.perf_counter() - began
    return took_s
