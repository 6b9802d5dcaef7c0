"""VQGAN+CLIP: jobs that share their steps against jobs one after the other, and one step against the public recipe.

The recipe is the plain loop that public VQGAN+CLIP programs share (research/vqgan_clip.md, section 2): one-hot codes,
crops one by one, plain memory layout, torch's Adam. Sizes are a 256x256 picture, 32 cuts, CLIP ViT-B/32 and VQGAN
f16-1024; weights are random, the same on both sides. Ours computes as the engine does here: in bf16 where the CPU has
instructions for it, else in float32 as the recipe.
"""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.specs.kinds import parse_spec
from tests.benchmarks.report import Report
from tests.models.conftest import tiny_tokenizer
from tests.unit.engines.test_torch_engines import Recorder
from worker.engines.base import Engine, Task
from worker.engines.options import EngineOptions
from worker.engines.registry import build_engines
from worker.engines.scheduling.device import Device
from worker.models.clip.clip import Clip
from worker.models.text import CaptionTokenizer
from worker.models.vqgan.vqgan import VQGAN, VQGANConfig
from worker.models.vqgan_clip.guidance import CutSettings
from worker.models.vqgan_clip.rows import step_alone
from worker.models.vqgan_clip.state import Perceptor, Prompt, Recipe, start

__all__ = ["run_latents"]

PROMPTS = ("a red apple", "a cat", "a rocket", "a slice of pizza", "a tree", "a house", "a fish", "a blue car")
ITERATIONS = 20
SERIAL_REPEATS, STEP_REPEATS = 2, 2
SIDE, CUTS = 256, 32
NOISE, RATE = 0.1, 0.1  # the recipe's, of views and of Adam
VIT_B_32 = {
    "model_cfg": {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
    },
    "preprocess_cfg": {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]},
}


def run_latents(report: Report) -> None:
    """Both measures, on all cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        _sharing(report)
        _step(report)
    finally:
        torch.set_num_threads(threads)


# --- eight jobs ------------------------------------------------------------------------------------------------------


def _sharing(report: Report) -> None:
    engine = build_engines(["vqgan_clip"], EngineOptions(device="cpu"))["vqgan_clip"]
    engine.load()
    _together(engine, _jobs(2))  # warm
    jobs = _jobs(ITERATIONS)
    serial_s, together_s = [], []
    for _ in range(SERIAL_REPEATS):  # in turns, so that a noisy minute falls on both
        serial_s.append(_seconds(lambda: [engine.run(job, Recorder()) for job in jobs]))
        together_s.append(_seconds(lambda: _together(engine, jobs)))
    count = len(jobs) * ITERATIONS
    print(f"   {count / min(serial_s):.1f} iterations/s one after the other, {count / min(together_s):.1f} together")
    report.add("vqgan_clip_batched_vs_serial", min(serial_s) / min(together_s), "x", at_least=1.2)


def _jobs(iterations: int) -> list[Task]:
    return [
        Task(
            parse_spec("vqgan_clip", {"prompts": [prompt], "iterations": iterations, "seed": seed, "preview_every": 0}),
            {},
        )
        for seed, prompt in enumerate(PROMPTS)
    ]


def _together(engine: Engine, jobs: list[Task]) -> None:
    threads = [threading.Thread(target=engine.run, args=(job, Recorder())) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


# --- one step --------------------------------------------------------------------------------------------------------


def _step(report: Report) -> None:
    torch.manual_seed(0)
    vqgan = VQGAN(VQGANConfig()).eval().requires_grad_(False)
    clip = Clip(VIT_B_32, CaptionTokenizer(tiny_tokenizer())).eval().requires_grad_(False)
    target = F.normalize(torch.randn(512), dim=0)
    recipe, autocast = _Recipe(vqgan, clip, target), Device("cpu").autocast
    ours = start(
        copy.deepcopy(vqgan).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        [Perceptor(copy.deepcopy(clip).to(memory_format=torch.channels_last), [Prompt(target)])],  # type: ignore[call-overload]
        seed=0, steps=100, size=(SIDE, SIDE), recipe=Recipe(cuts=CutSettings(cuts=CUTS)), init="codes",
        autocast=autocast,
    )  # fmt: skip
    recipe.step()  # warm, as the next
    step_alone(ours)
    theirs_s, ours_s = [], []
    for _ in range(STEP_REPEATS):
        theirs_s.append(_seconds(recipe.step))
        ours_s.append(_seconds(lambda: step_alone(ours)))
    print(f"   {min(theirs_s):.2f} s a step of the recipe, {min(ours_s):.2f} s of ours")
    peer = f"the public recipe in float32, ours in {autocast or torch.float32}"
    report.add("vqgan_clip_step_vs_reference", min(theirs_s) / min(ours_s), "x", at_least=1.3, peer=peer)


class _ThroughClamp(torch.autograd.Function):
    """Clamp to [0, 1] whose gradient is dropped where it would lead further out."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        kept: Tensor = grad * (grad * (x - x.clamp(0, 1)) >= 0)
        return kept


class _Recipe:
    """A run of the public recipe."""

    def __init__(self, vqgan: VQGAN, clip: Clip, target: Tensor) -> None:
        self._vqgan, self._clip, self._target = vqgan, clip, target
        self._codes = vqgan.quantize.embedding.weight.detach()
        cells = SIDE // vqgan.config.factor
        drawn = F.one_hot(torch.randint(len(self._codes), (cells * cells,)), len(self._codes)).float() @ self._codes
        self._z = drawn.view(1, cells, cells, -1).permute(0, 3, 1, 2).contiguous().requires_grad_()
        self._adam = torch.optim.Adam([self._z], lr=RATE)
        self._low = self._codes.amin(0)[None, :, None, None]
        self._high = self._codes.amax(0)[None, :, None, None]

    def step(self) -> None:
        """One iteration."""
        self._adam.zero_grad()
        views = self._clip.encode_image(self._views(self._picture()))
        distance = (views - self._target).norm(dim=-1).div(2).arcsin().square().mul(2)
        distance.mean().backward()
        self._adam.step()
        with torch.no_grad():
            self._z.copy_(self._z.maximum(self._low).minimum(self._high))

    def _picture(self) -> Tensor:
        x = self._z.permute(0, 2, 3, 1)  # (1, h, w, C)
        apart = x.square().sum(-1, keepdim=True) + self._codes.square().sum(1) - 2 * x @ self._codes.T
        one_hot = F.one_hot(apart.argmin(-1), len(self._codes)).to(self._codes.dtype)
        nearest = x + (one_hot @ self._codes - x).detach()
        out: Tensor = _ThroughClamp.apply(self._vqgan.decode(nearest.permute(0, 3, 1, 2)).add(1).div(2))
        return out

    def _views(self, picture: Tensor) -> Tensor:
        """Crops of random sizes and places, one by one."""
        side, smallest = self._clip.image_size_px, min(SIDE, self._clip.image_size_px)
        views = []
        for _ in range(CUTS):
            size = int(torch.rand(()) * (SIDE - smallest) + smallest)
            left, top = (int(torch.randint(0, SIDE - size + 1, ())) for _ in range(2))
            crop = picture[:, :, top : top + size, left : left + size]
            views.append(F.interpolate(crop, (side, side), mode="bicubic", align_corners=False, antialias=True))
        batch = torch.cat(views).clamp(0, 1)
        return batch + torch.rand(CUTS, 1, 1, 1) * NOISE * torch.randn_like(batch)
