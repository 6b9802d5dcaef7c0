"""The measure anyone can rerun: figures on the held-out design, and of generated pictures before the judge.

Fixed names, seeds and settings: the same weights on the same machine give the same figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.models.clip.clip import Clip
from worker.models.vqgan_clip.state import Recipe
from worker.training.data.pictures import Pictures
from worker.training.evaluation.generate import Models, Sampling, common_names, draw_dalle, draw_unclip, draw_vqgan_clip
from worker.training.evaluation.measure import FIGURES, clip_figures, judged, vqgan_figures

SEED = 0  # of every picture: a job of the same prompt, settings and seed draws it again
CHOSEN_FROM = 16  # pictures of which the steering CLIP takes the best
TEMPERATURE, TOP_K = 0.8, 64  # DALL-E's, as the model card advises
ITERATIONS = 200  # of VQGAN+CLIP

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Generator:
    """One kind of picture that the judge sees."""

    kind: str  # of the jobs that draw the same
    model: str  # without which there is none
    fraction: int  # draws one for so many of the full list's names
    at_once: int  # names in one call
    draw: Callable[[Models, Sequence[str]], Tensor]  # (P, K, 3, 64, 64) in [0, 1], best by the steering CLIP first


def _dalle(models: Models, names: Sequence[str]) -> Tensor:
    assert models.dalle is not None
    settings = Sampling(TEMPERATURE, TOP_K, guidance=models.dalle.config.guidance)
    return draw_dalle(models, names, CHOSEN_FROM, settings, SEED)


def _vqgan_clip(models: Models, names: Sequence[str]) -> Tensor:
    return torch.stack([draw_vqgan_clip(models, [name], Recipe(), ITERATIONS, SEED) for name in names])


def _unclip(models: Models, names: Sequence[str]) -> Tensor:
    return draw_unclip(models, names, CHOSEN_FROM, SEED)


GENERATORS = (
    Generator("dalle", "dalle", 1, 4, _dalle),
    Generator("unclip", "unclip", 1, 4, _unclip),
    Generator("vqgan_clip", "vqgan", 4, 1, _vqgan_clip),
)


@dataclass(slots=True)
class Findings:
    """What was measured, and why the rest was not."""

    figures: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # name of a figure: why there is none

    def explain(self, found: Mapping[str, object], names: int) -> None:
        """Give every held-out and judged figure that is not there its reason; `found`: the models by name."""
        for name, figure in FIGURES.items():
            if name in self.figures or figure.unit == "s":
                continue
            absent = [f"emoji-{model}" for model in figure.of if found.get(model) is None]
            reason = "--names 0" if not names else "nothing here draws for it"
            self.missing[name] = f"no {' and no '.join(absent)} among the models" if absent else reason


@dataclass(slots=True)
class Drawing:
    """One generator at work on its names."""

    generator: Generator
    names: list[str]
    parts: list[Tensor] = field(default_factory=list)
    done: int = 0
    seconds: float = 0.0

    @property
    def left_s(self) -> float:
        """Seconds still to go, by what the names so far took."""
        return self.seconds / max(1, self.done) * (len(self.names) - self.done)

    def step(self, models: Models) -> bool:
        """Draw for the next names; False if there are none left."""
        part = self.names[self.done : self.done + self.generator.at_once]
        if part:
            started_at = time.monotonic()
            self.parts.append(self.generator.draw(models, part).cpu())
            self.seconds += time.monotonic() - started_at
            self.done += len(part)
        return bool(part)


def measure_models(models: Models, held_out: Pictures, judge: Clip | None) -> dict[str, float]:
    """CLIP's and VQGAN's figures, and the judge's own CLIP figures under `judge_`."""
    figures = clip_figures(models.clip, held_out) | vqgan_figures(models.vqgan, held_out)
    if judge is not None:
        figures |= {f"judge_{name}": value for name, value in clip_figures(judge, held_out).items()}
    return figures


def draw_all(
    models: Models, generators: Sequence[Generator], names: Sequence[Sequence[str]], say: Say
) -> list[Drawing]:
    """Every generator's pictures of its `names`; says how long it will take once each has begun."""
    drawings = [Drawing(generator, list(own)) for generator, own in zip(generators, names, strict=True)]
    for drawing in drawings:
        drawing.step(models)
    say("estimate: " + ", ".join(f"{d.generator.kind} {d.left_s / 60:.1f} min" for d in drawings))
    for drawing in drawings:
        while drawing.step(models):
            if drawing.done % 20 < drawing.generator.at_once:
                left = f"{drawing.left_s / 60:.1f} min left"
                say(f"{drawing.generator.kind}: {drawing.done} of {len(drawing.names)} names, {left}")
    return drawings


def measure_drawings(drawings: Sequence[Drawing], models: Models, judge: Clip, held_out: Pictures) -> dict[str, float]:
    """% whose name is among the judge's first 5 and 1, and among the steering CLIP's own 5, which flatter."""
    figures: dict[str, float] = {}
    for drawing in drawings:
        right, every = places(drawing.names, held_out)
        best, kind = torch.cat(drawing.parts)[:, 0], drawing.generator.kind
        figures |= {f"{kind}_judged_top{k}": judged(judge, best, right, every, k) for k in (5, 1)}
        figures[f"{kind}_steered_top5"] = judged(models.clip, best, right, every, 5)
    return figures


def places(names: Sequence[str], held_out: Pictures) -> tuple[list[int], list[str]]:
    """Where `names` stand among all names of the held-out design, appending those it lacks."""
    every = list(dict.fromkeys([*(row.name for row in held_out.rows), *names]))
    place = {name: index for index, name in enumerate(every)}
    return [place[name] for name in names], every


def names_for(pictures: Pictures, count: int, generator: Generator) -> list[str]:
    """The names that a generator draws when the full list has `count`: common things, spread over the vocabulary.

    Fewer where the set has fewer.
    """
    return list(dict.fromkeys(common_names(pictures, max(1, count // generator.fraction))))
