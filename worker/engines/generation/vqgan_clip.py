"""A picture by descent: a VQGAN latent moved, step by step, to where one or more CLIPs see the prompts."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
import torch
from PIL import Image
from torch import Tensor

from shared.errors import Draining, EngineError, InvalidInput, Yielded
from shared.specs.generation import PromptTerm, VqganClipSpec
from worker.engines.base import Model, Output, Picture, RunContext, Task, keeping
from worker.engines.embedding.embedder import Embedder
from worker.engines.generation.snapshots import Saved, as_bytes, as_tensor, pack, seed_of, unpack
from worker.engines.generation.video import animated, as_png, frame_every
from worker.engines.generation.vqgan_clip_stepper import LatentRow, LatentStepper
from worker.engines.identity import identity
from worker.engines.images import to_images, to_tensor
from worker.engines.library import ModelLibrary
from worker.engines.options import EngineParts
from worker.engines.scheduling.batch_cache import BatchCache, SharedBatch
from worker.engines.scheduling.device import Device
from worker.models.errors import ModelError
from worker.models.vqgan_clip.state import Perceptor, Prompt, Recipe, VqganClipState, start

__all__ = ["VqganClipEngine", "build"]

log = structlog.stdlib.get_logger(__name__)

KIND = "vqgan_clip"
INITS = {"smooth": "noise", "codes": "codes"}  # the spec's words to the model's


@dataclass
class _Run:
    """One job under way."""

    spec: VqganClipSpec
    seed: int
    row: LatentRow
    shared: SharedBatch[LatentRow, LatentStepper]
    targets: Tensor  # (D,) what the first perceptor looks for, weighted and summed
    identity: dict[str, str]  # of its snapshots
    frames: list[bytes] = field(default_factory=list)  # PNG
    framed_at: int = 0  # iterations of the last frame, and of the last preview
    previewed_at: int = 0
    started_at: float = field(default_factory=time.monotonic)

    @property
    def state(self) -> VqganClipState:
        """What is optimised. In the batch its step count is true, its tensors are old."""
        return self.row.state

    @property
    def lacks_preview(self) -> bool:
        """Whether the picture as it is now is to be shown, and was not yet."""
        count, every = self.state.step_count, self.spec.preview_every
        return every > 0 and count % every == 0 and self.previewed_at != count and not self.state.done

    @property
    def lacks_frame(self) -> bool:
        """Whether it belongs in the video, and is not there yet."""
        count = self.state.step_count
        return self.spec.video and count % frame_every(self.spec) == 0 and self.framed_at != count


class VqganClipEngine:
    """Serves every VQGAN of the library with any of its CLIPs."""

    resumes = True

    def __init__(self, library: ModelLibrary, device: Device, embedder: Embedder) -> None:
        self._library = library
        self._device = device
        self._embedder = embedder
        self._batches = BatchCache[LatentRow, LatentStepper](device, KIND)
        self.device_name = device.name

    def load(self) -> list[Model]:
        """See Engine."""
        return self._library.describe(*self._library.load_family("vqgan"), *self._library.load_family("clip"))

    def run(self, task: Task[VqganClipSpec], context: RunContext) -> Output:
        """See Engine."""
        run = self._begin(task, context)
        with keeping(lambda: self._output(run, context) if run.state.step_count else None):
            if not run.state.done:
                self._optimise(run, context)
        return self._output(run, context)

    def _optimise(self, run: _Run, context: RunContext) -> None:
        """Iterations with all others of the kind. The run stands still where a preview or a frame is due."""

        def make() -> bytes:
            return self._saved(run)

        def on_step() -> None:
            context.progress("optimise", run.state.step_count, run.spec.iterations)

        def is_due() -> bool:
            return run.lacks_preview or run.lacks_frame

        try:
            with run.shared.batch.joined([run.row], on_step, is_due) as turns:
                for _ in turns:
                    self._show(run, context)
                    context.snapshot(run.state.step_count, make)
        except (Draining, Yielded):
            context.snapshot(run.state.step_count, make)  # it got further than at the last turn
            raise

    def _begin(self, task: Task[VqganClipSpec], context: RunContext) -> _Run:
        spec = task.spec
        vqgan = self._library.vqgan(spec.model)
        width, height = spec.size
        if width % vqgan.config.factor or height % vqgan.config.factor:
            raise InvalidInput(f"this model's sides are multiples of {vqgan.config.factor}", field="input.size")
        perceptors = [self._perceptor(model_id, task, context) for model_id in spec.perceptors]
        init: str | Tensor = INITS[spec.init_noise]
        if spec.init_image:
            init = to_tensor(task.images[spec.init_image], (width, height))
        own = identity(spec, self._library.describe(spec.model, *spec.perceptors))
        saved = unpack(task.snapshot, own)
        seed = seed_of(spec.seed, saved)
        with self._device.step(KIND):
            state = start(
                vqgan, perceptors, seed=seed, steps=spec.iterations, size=(height, width), recipe=_recipe(spec),
                init=init, autocast=self._device.autocast,
            )  # fmt: skip
        shared = self._shared(state, task.was_too_large)
        run = _Run(spec, seed, LatentRow(state), shared, _summed(perceptors[0]), own)
        if saved is not None and self._restore(run, saved):
            context.resumed(run.state.step_count)
        return run

    def _restore(self, run: _Run, saved: Saved) -> bool:
        """Whether the run now is where the snapshot was."""
        count = int(saved.facts.get("frames", 0))
        tensors = dict(saved.tensors)
        try:
            frames = [as_bytes(tensors.pop(f"frame.{number}")) for number in range(count)]
            with self._device.turn(KIND):
                run.state.restore(tensors)
        except (ModelError, EngineError, KeyError) as error:
            log.warning("snapshot ignored: it does not fit", error=str(error))
            return False
        run.frames = frames
        run.framed_at = run.previewed_at = run.state.step_count
        return True

    def _shared(self, state: VqganClipState, is_careful: bool) -> SharedBatch[LatentRow, LatentStepper]:
        """The batch of all runs that can share their steps; a quarter of the memory where the last try was too much.
        Raises OutOfMemory where not one such run fits."""
        device, share = self._device, 4 if is_careful else 1

        def make() -> LatentStepper:
            return LatentStepper(state, lambda: device.free_bytes() // share, device.rows, device.is_deterministic)

        with device.step(KIND):
            shared = self._batches.get((state.share_key, is_careful), make)
            shared.stepper.check()
            return shared

    def _saved(self, run: _Run) -> bytes:
        """The run as it is now."""
        with self._device.turn(KIND):
            run.shared.stepper.sync(run.row)
            picture = run.state.image() if run.lacks_frame else None
            count, tensors = run.state.step_count, run.state.snapshot()
        if picture is not None:
            self._add_frame(run, to_images(picture)[0], count)
        tensors |= {f"frame.{number}": as_tensor(frame) for number, frame in enumerate(run.frames)}
        return pack(run.identity, tensors, {"seed": str(run.seed), "frames": str(len(run.frames))})

    def _perceptor(self, model_id: str, task: Task[VqganClipSpec], context: RunContext) -> Perceptor:
        prompts = []
        for term in task.spec.prompts:
            if term.image is not None:
                vector = self._embedder.images(model_id, [task.images[term.image]], context)[0]
            else:
                vector = self._embedder.texts(model_id, [term.text or ""])[0]
            prompts.append(Prompt(vector.clone(), term.weight, -math.inf if term.stop is None else term.stop))
        return Perceptor(self._library.clip(model_id), prompts)

    def _show(self, run: _Run, context: RunContext) -> None:
        """Previews as often as the spec asks; frames as often, or often enough for a video."""
        if not run.lacks_preview and not run.lacks_frame:
            return
        count = run.state.step_count
        with self._device.step(KIND):
            picture = run.state.image()  # it stands still, outside the batch
        image = to_images(picture)[0]
        if run.lacks_frame:
            self._add_frame(run, image, count)
        if run.lacks_preview:
            run.previewed_at = count
            context.preview(image, count)

    @staticmethod
    def _add_frame(run: _Run, image: Image.Image, count: int) -> None:
        run.framed_at = count
        run.frames.append(as_png(image))

    def _output(self, run: _Run, context: RunContext) -> Output:
        optimised_at = time.monotonic()
        spec = run.spec
        with self._device.step(KIND):
            picture = run.state.image()
        score = float(self._embedder.tensors(spec.perceptors[0], picture)[0] @ run.targets)
        image = to_images(picture)[0]
        prompt = " | ".join(_described(term) for term in spec.prompts)
        ranked_at = time.monotonic()
        files = {"video.webp": (animated([*run.frames, as_png(image)], context), "image/webp")} if spec.video else {}
        return Output(
            pictures=[Picture(image, prompt, run.seed, 0, score)],
            files=files,
            parameters=_parameters(run),
            models=self._library.describe(spec.model, *spec.perceptors),
            timings={
                "optimise_s": optimised_at - run.started_at,
                "rank_s": ranked_at - optimised_at,
                **({"video_s": time.monotonic() - ranked_at} if files else {}),
            },
        )


def _recipe(spec: VqganClipSpec) -> Recipe:
    """The models' own recipe, with what the spec names in its place. A given picture keeps its own background."""
    recipe = Recipe(near_start=spec.init_weight)
    if spec.init_image:
        recipe = replace(recipe, background=0.0)
    if spec.cutouts is not None:
        cuts = replace(recipe.cuts, cuts=spec.cutouts, full=min(recipe.cuts.full, spec.cutouts))
        recipe = replace(recipe, cuts=cuts)
    if spec.learning_rate is not None:
        recipe = replace(recipe, learning_rate=spec.learning_rate)
    return recipe


def _summed(perceptor: Perceptor) -> Tensor:
    """What the score is measured against: the mean of the prompts by weight; with one prompt, its embedding."""
    total = sum(abs(prompt.weight) for prompt in perceptor.prompts)
    rows = [prompt.embedding * (prompt.weight / total) for prompt in perceptor.prompts]
    return torch.stack(rows).sum(0)


def _described(term: PromptTerm) -> str:
    """A term as people write it."""
    source = term.text if term.text is not None else str(term.image)
    return source if term.weight == 1 else f"{source}:{term.weight:g}"


def _parameters(run: _Run) -> dict[str, Any]:
    recipe = run.state.recipe
    parameters = run.spec.model_dump(exclude={"kind"})
    parameters.update(
        seed=run.seed,
        cutouts=recipe.cuts.cuts,
        learning_rate=recipe.learning_rate,
        iterations_done=run.state.step_count,
    )
    return parameters


def build(parts: EngineParts) -> VqganClipEngine:
    """The engine, as the table of kinds names it."""
    return VqganClipEngine(parts.library, parts.device, parts.embedder)
