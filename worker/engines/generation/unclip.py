"""Pictures by diffusion: a caption's CLIP vector to a picture's by the prior, that to a latent by the decoder.

With a picture given, its own vector takes the prior's place: variations of it. The candidates of all jobs with one
model step in one batch, each at its own step (worker.engines.generation.unclip_stepper). Those that are finished are
decoded and scored while the others go on, so a job that is cancelled keeps what it has. A picture depends on its
prompt, seed and index only, not on n nor on what shares the batch.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from shared.errors import ModelUnavailable
from shared.specs.generation import UnclipSpec
from worker.engines.base import Model, Output, Picture, RunContext, Task, keeping
from worker.engines.embedding.embedder import Embedder
from worker.engines.generation.candidates import Candidate, best, decode, rows_at_once, scores
from worker.engines.generation.snapshots import seed_of
from worker.engines.generation.unclip_stepper import DiffusionStepper, Drawn
from worker.engines.images import contact_sheet, to_images, to_tensor
from worker.engines.library import ModelLibrary
from worker.engines.options import EngineParts
from worker.engines.scheduling.batch import Batch
from worker.engines.scheduling.device import Device
from worker.models.dalle.pictures import decode_ids
from worker.models.errors import ShapeError
from worker.models.unclip.diffusion import Denoiser, DiffusionRow
from worker.models.unclip.sampler import check_fit, codes_of, decoder_denoiser, prior_denoiser
from worker.models.unclip.unclip import Unclip
from worker.models.vqgan.vqgan import VQGAN

__all__ = ["UnclipEngine", "build"]

KIND = "unclip"
PREVIEWED = 4  # candidates a preview shows


@dataclass(frozen=True)
class _Settings:
    """The spec's, the model's own where the spec names none."""

    seed: int
    prior_steps: int  # 0 where a picture is given
    prior_guidance: float
    decoder_steps: int
    guidance: float


@dataclass
class _Run:
    """One job under way."""

    spec: UnclipSpec
    settings: _Settings
    model_ids: tuple[str, str, str]  # unclip, vqgan, clip
    unclip: Unclip
    vqgan: VQGAN
    prompts: list[str]  # as the pictures are labelled
    vectors: Tensor  # (P, D): of the captions, or of the given picture
    targets: Tensor  # (P, D): what candidates are scored against
    candidates: list[Candidate]
    pictures: list[list[Picture]]  # per prompt
    max_rows: int  # candidates in a batch at once
    ready: list[Drawn] = field(default_factory=list)  # denoised, not decoded yet
    led_by: Drawn | None = None  # the first of those that previews show
    shown_at: int = 0  # its step in the last preview
    waves: int = -1  # of previews, before these
    timings: dict[str, float] = field(
        default_factory=lambda: {"prior_s": 0.0, "sample_s": 0.0, "decode_s": 0.0, "rank_s": 0.0}
    )

    @property
    def steps(self) -> int:
        """Of all pictures, prior and decoder together."""
        return len(self.candidates) * (self.settings.prior_steps + self.settings.decoder_steps)

    @property
    def places(self) -> Tensor:
        """(N,): the prompt of every candidate."""
        return torch.tensor([candidate.prompt for candidate in self.candidates], device=self.vectors.device)


class UnclipEngine:
    """Serves every unclip model of the library with the VQGAN and CLIP its registry entry names."""

    resumes = False  # 512 pictures take seconds on a GPU

    def __init__(self, library: ModelLibrary, device: Device, embedder: Embedder) -> None:
        self._library = library
        self._device = device
        self._embedder = embedder
        self._lock = threading.Lock()
        self._batches: dict[tuple[str, str], tuple[Denoiser, Batch[Drawn]]] = {}
        self.device_name = device.name

    def load(self) -> list[Model]:
        """See Engine. A registry without such a model is none's fault: a job that names one fails by itself."""
        ids: list[str] = []
        for entry in self._library.entries(KIND):
            names = self._library.companions(entry.id, KIND)
            unclip, vqgan = self._library.unclip(names[0]), self._library.vqgan(names[1])
            try:
                check_fit(unclip, vqgan, self._library.clip(names[2]).width)
            except ShapeError as error:
                raise ModelUnavailable(f"{entry.id!r}: {error}") from error
            ids.extend(names)
        return self._library.describe(*ids)

    def run(self, task: Task, context: RunContext) -> Output:
        """See Engine."""
        run = self._begin(task)
        with keeping(lambda: self._kept(run)):
            vectors = run.vectors[run.places]
            if run.settings.prior_steps:
                vectors = self._imagine(run, vectors, context)
            self._draw(run, vectors, context)
        return self._output(run)

    def _begin(self, task: Task) -> _Run:
        spec = task.spec
        assert isinstance(spec, UnclipSpec)
        names = self._library.companions(spec.model, KIND)
        unclip = self._library.unclip(names[0])
        captions = self._embedder.texts(names[2], spec.prompts) if spec.prompts else None
        picture = None if spec.image is None else self._picture(names[2], task, spec.image)
        vectors = picture if picture is not None else captions
        targets = captions if captions is not None else picture
        assert vectors is not None
        assert targets is not None
        prompts = spec.prompts or [str(spec.image)]
        return _Run(
            spec=spec,
            settings=_settings(spec, unclip),
            model_ids=names,
            unclip=unclip,
            vqgan=self._library.vqgan(names[1]),
            prompts=prompts,
            vectors=vectors,
            targets=targets,
            candidates=[Candidate(prompt, index) for prompt in range(len(prompts)) for index in range(spec.n)],
            pictures=[[] for _ in prompts],
            max_rows=rows_at_once(self._device, task),
        )

    def _picture(self, clip: str, task: Task, ref: str) -> Tensor:
        """(1, D) of the given picture."""
        side = self._library.clip(clip).image_size_px
        pixels = to_tensor(task.images[ref], (side, side)).to(self._device.torch_device)
        return self._embedder.tensors(clip, pixels)

    # --- prior and decoder ---------------------------------------------------------------------------------------

    def _imagine(self, run: _Run, captions: Tensor, context: RunContext) -> Tensor:
        """Picture vectors (N, D) of captions' vectors (N, D)."""
        started_at, settings = time.monotonic(), run.settings
        denoiser, batch = self._batch(run, "prior", captions[0])
        rows = _rows(run, denoiser, captions, "the prior", settings.prior_steps, settings.prior_guidance)

        def on_step() -> None:
            context.progress("prior", _taken(rows), run.steps)

        with batch.joined(rows, on_step, max_rows=run.max_rows) as turns:
            for _ in turns:
                pass
        with self._device.step(KIND), torch.inference_mode():
            vectors = run.unclip.unit(torch.stack([row.state.noisy for row in rows]))
        run.timings["prior_s"] += time.monotonic() - started_at
        return vectors

    def _draw(self, run: _Run, vectors: Tensor, context: RunContext) -> None:
        """Pictures of picture vectors (N, D), decoded and scored in groups, as they come."""
        started_at, settings = time.monotonic(), run.settings
        with self._device.step(KIND), torch.inference_mode():
            conditions = run.unclip.whiten(vectors)
        denoiser, batch = self._batch(run, "decoder", conditions[0])
        rows = _rows(run, denoiser, conditions, "the decoder", settings.decoder_steps, settings.guidance)
        imagined = len(rows) * settings.prior_steps

        def on_step() -> None:
            context.progress("sample", imagined + _taken(rows), run.steps)

        with batch.joined(rows, on_step, lambda: _lacks_preview(run, rows), max_rows=run.max_rows) as turns:
            for finished in turns:
                run.ready += finished
                self._preview(run, rows, context)
                self._finish_ready(run, context, at_least=self._device.group)
        self._finish_ready(run, context)
        busy_s = run.timings["decode_s"] + run.timings["rank_s"]
        run.timings["sample_s"] += time.monotonic() - started_at - busy_s

    def _batch(self, run: _Run, part: str, like: Tensor) -> tuple[Denoiser, Batch[Drawn]]:
        """Of all rows of one part of one model."""
        key = (run.model_ids[0], part)
        with self._lock, self._device.step(KIND):
            if key not in self._batches:
                denoiser = prior_denoiser(run.unclip) if part == "prior" else decoder_denoiser(run.unclip, run.vqgan)
                stepper = DiffusionStepper(
                    denoiser, like, self._device.free_bytes, self._device.rows, self._device.is_deterministic
                )
                self._batches[key] = denoiser, self._device.batch(KIND, stepper)
            return self._batches[key]

    # --- what becomes of it --------------------------------------------------------------------------------------

    def _finish_ready(self, run: _Run, context: RunContext | None, at_least: int = 1) -> None:
        while len(run.ready) >= at_least:
            group = run.ready[: self._device.group]
            self._finish(run, group, context)
            run.ready = run.ready[len(group) :]

    def _finish(self, run: _Run, group: list[Drawn], context: RunContext | None) -> None:
        """Decode and score what is denoised."""
        drawn_at = time.monotonic()
        with self._device.step(KIND):
            codes = codes_of(run.unclip, run.vqgan, torch.stack([row.state.noisy for row in group]))
        pictures = decode(self._device, run.vqgan, codes, KIND, context)
        decoded_at = time.monotonic()
        targets = torch.stack([run.targets[row.candidate.prompt] for row in group])
        found = scores(self._embedder, run.model_ids[2], pictures, targets)
        for row, image, score in zip(group, to_images(pictures), found, strict=True):
            candidate = row.candidate
            picture = Picture(image, run.prompts[candidate.prompt], run.settings.seed, candidate.index, score)
            run.pictures[candidate.prompt].append(picture)
        run.timings["decode_s"] += decoded_at - drawn_at
        run.timings["rank_s"] += time.monotonic() - decoded_at

    def _preview(self, run: _Run, rows: list[Drawn], context: RunContext) -> None:
        """The first of those that are not finished, and such as are as far. They stand still meanwhile."""
        if not _lacks_preview(run, rows):
            return
        leader = _leader(rows)
        assert leader is not None
        at = leader.state.position
        level = [row for row in rows if row.state.position == at and not row.done][:PREVIEWED]
        with self._device.step(KIND):
            estimates = torch.stack([row.state.estimate for row in level])
            shown = decode_ids(run.vqgan, codes_of(run.unclip, run.vqgan, estimates))
        run.waves += leader is not run.led_by
        run.led_by, run.shown_at = leader, at
        context.preview(contact_sheet(to_images(shown)), run.waves * run.settings.decoder_steps + at)

    def _kept(self, run: _Run) -> Output | None:
        """What a job that was stopped has: its decoded pictures, and those of which only that was left."""
        self._finish_ready(run, None)
        return self._output(run) if any(run.pictures) else None

    def _output(self, run: _Run) -> Output:
        settings = run.settings
        keep = run.spec.n if run.spec.keep is None else run.spec.keep
        parameters: dict[str, Any] = run.spec.model_dump(exclude={"kind"})
        parameters.update(
            keep=keep, seed=settings.seed, decoder_steps=settings.decoder_steps, guidance=settings.guidance
        )
        if settings.prior_steps:
            parameters.update(prior_steps=settings.prior_steps, prior_guidance=settings.prior_guidance)
        return Output(
            pictures=list(best(run.pictures, keep)),
            parameters=parameters,
            models=self._library.describe(*run.model_ids),
            timings=run.timings,
        )


def _settings(spec: UnclipSpec, unclip: Unclip) -> _Settings:
    own = unclip.config

    def first(given: Any, default: Any) -> Any:
        return default if given is None else given

    return _Settings(
        seed=seed_of(spec.seed),
        prior_steps=0 if spec.image is not None else first(spec.prior_steps, own.prior_steps),
        prior_guidance=first(spec.prior_guidance, own.prior_guidance),
        decoder_steps=first(spec.decoder_steps, own.decoder_steps),
        guidance=first(spec.guidance, own.guidance),
    )


def _rows(run: _Run, denoiser: Denoiser, conditions: Tensor, who: str, steps: int, guidance: float) -> list[Drawn]:
    kinds = [DiffusionRow(run.settings.seed, candidate.index, steps, guidance) for candidate in run.candidates]
    states = denoiser.start(kinds, conditions)
    return [
        Drawn(candidate, run.prompts[candidate.prompt], who, state)
        for candidate, state in zip(run.candidates, states, strict=True)
    ]


def _taken(rows: list[Drawn]) -> int:
    """Steps of pictures."""
    return sum(row.state.position for row in rows)


def _leader(rows: list[Drawn]) -> Drawn | None:
    return next((row for row in rows if not row.done), None)


def _lacks_preview(run: _Run, rows: list[Drawn]) -> bool:
    """Whether the first that is not finished has come to a step that is to be shown, and was not yet."""
    leader, every = _leader(rows), run.spec.preview_every
    if leader is None or not every or not leader.state.position or leader.state.position % every:
        return False
    return leader is not run.led_by or leader.state.position != run.shown_at


def build(parts: EngineParts) -> UnclipEngine:
    """The engine, as the table of kinds names it."""
    return UnclipEngine(parts.library, parts.device, parts.embedder)
