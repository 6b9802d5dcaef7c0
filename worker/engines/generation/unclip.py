"""Pictures by diffusion: a caption's CLIP vector to a picture's by the prior, that to a latent by the decoder.

With a picture given, its own vector takes the prior's place: variations of it. The candidates of all jobs with one
model step in one batch, each at its own step (worker.engines.generation.unclip_stepper). Those that are finished are
decoded and scored while the others go on, so a job that is cancelled keeps what it has. A picture depends on its
prompt, seed and index only, not on n nor on what shares the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shared.errors import ModelUnavailable
from shared.specs.generation import UnclipSpec
from worker.engines.base import Model, Output, RunContext, Task, keeping
from worker.engines.embedding.embedder import Embedder
from worker.engines.generation.candidates import Candidate, CandidateRun, rows_at_once
from worker.engines.generation.snapshots import seed_of
from worker.engines.generation.unclip_previews import UnclipPreviews
from worker.engines.generation.unclip_stepper import KIND, DiffusionStepper, Drawn
from worker.engines.images import to_tensor
from worker.engines.library import ModelLibrary
from worker.engines.options import EngineParts
from worker.engines.scheduling.batch_cache import BatchCache, SharedBatch
from worker.engines.scheduling.device import Device
from worker.models.errors import ShapeError
from worker.models.unclip.diffusion import Denoiser, DiffusionRow
from worker.models.unclip.sampler import check_fit, codes_of, decoder_denoiser, prior_denoiser
from worker.models.unclip.unclip import Unclip

__all__ = ["UnclipEngine", "build"]


@dataclass(frozen=True)
class _Settings:
    """The spec's, the model's own where the spec names none."""

    seed: int
    prior_steps: int  # 0 where a picture is given
    prior_guidance: float
    decoder_steps: int
    guidance: float

    @property
    def parameters(self) -> dict[str, Any]:
        """What an output says of them; of the prior only where it was used."""
        prior = {"prior_steps": self.prior_steps, "prior_guidance": self.prior_guidance} if self.prior_steps else {}
        return {"seed": self.seed, "decoder_steps": self.decoder_steps, "guidance": self.guidance, **prior}


@dataclass(kw_only=True)
class _Run(CandidateRun[Drawn]):
    """One job under way."""

    settings: _Settings
    unclip: Unclip
    prompts: list[str]  # as the pictures are labelled
    vectors: Tensor  # (P, D): of the captions, or of the given picture
    aims: Tensor  # (P, D): what candidates are scored against
    candidates: list[Candidate]

    @property
    def steps(self) -> int:
        """Of all pictures, prior and decoder together."""
        return len(self.candidates) * (self.settings.prior_steps + self.settings.decoder_steps)

    @property
    def conditions(self) -> Tensor:
        """(N, D): of every candidate, its prompt's vector."""
        places = [candidate.prompt for candidate in self.candidates]
        return self.vectors[torch.tensor(places, device=self.vectors.device)]

    def codes(self, group: Sequence[Drawn]) -> Tensor:
        """See CandidateRun."""
        with self.device.step(KIND):
            return codes_of(self.unclip, self.vqgan, torch.stack([row.state.noisy for row in group]))

    def targets(self, group: Sequence[Drawn]) -> Tensor:
        """See CandidateRun."""
        return torch.stack([self.aims[row.candidate.prompt] for row in group])

    def rows(self, denoiser: Denoiser, conditions: Tensor, who: str, steps: int, guidance: float) -> list[Drawn]:
        """One of every candidate, nothing denoised yet. who: for messages."""
        kinds = [DiffusionRow(self.seed, candidate.index, steps, guidance) for candidate in self.candidates]
        states = denoiser.start(kinds, conditions)
        return [
            Drawn(candidate, self.prompts[candidate.prompt], who, state)
            for candidate, state in zip(self.candidates, states, strict=True)
        ]


class UnclipEngine:
    """Serves every unclip model of the library with the VQGAN and CLIP its registry entry names."""

    resumes = False  # 512 pictures take seconds on a GPU

    def __init__(self, library: ModelLibrary, device: Device, embedder: Embedder) -> None:
        self._library = library
        self._device = device
        self._embedder = embedder
        self._batches = BatchCache[Drawn, DiffusionStepper](device, KIND)
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

    def run(self, task: Task[UnclipSpec], context: RunContext) -> Output:
        """See Engine."""
        run = self._begin(task)
        with keeping(run.kept):
            vectors = run.conditions
            if run.settings.prior_steps:
                vectors = self._imagine(run, task.spec, vectors, context)
            self._draw(run, task.spec, vectors, context)
        return run.output()

    def _begin(self, task: Task[UnclipSpec]) -> _Run:
        spec = task.spec
        names = self._library.companions(spec.model, KIND)
        unclip = self._library.unclip(names[0])
        vectors, aims = self._vectors(task, names[2])
        prompts, settings = spec.prompts or [str(spec.image)], _settings(spec, unclip)
        keep = spec.n if spec.keep is None else spec.keep
        return _Run(
            kind=KIND,
            device=self._device,
            embedder=self._embedder,
            vqgan=self._library.vqgan(names[1]),
            clip=names[2],
            seed=settings.seed,
            max_rows=rows_at_once(self._device, task),
            keep=keep,
            pictures=[[] for _ in prompts],
            parameters=spec.model_dump(exclude={"kind"}) | {"keep": keep} | settings.parameters,
            models=self._library.describe(*names),
            timings={"prior_s": 0.0, "sample_s": 0.0, "decode_s": 0.0, "rank_s": 0.0},
            settings=settings,
            unclip=unclip,
            prompts=prompts,
            vectors=vectors,
            aims=aims,
            candidates=[Candidate(prompt, index) for prompt in range(len(prompts)) for index in range(spec.n)],
        )

    def _vectors(self, task: Task[UnclipSpec], clip: str) -> tuple[Tensor, Tensor]:
        """(P, D) and (P, D): where candidates start, and what they are scored against. A picture is varied without a
        look at its prompt, which ranks the variations."""
        spec = task.spec
        if spec.image is None:
            captions = self._embedder.texts(clip, spec.prompts)
            return captions, captions
        aims = self._embedder.texts(clip, spec.prompts) if spec.prompts else None
        side = self._library.clip(clip).image_size_px
        pixels = to_tensor(task.images[spec.image], (side, side)).to(self._device.torch_device)
        picture = self._embedder.tensors(clip, pixels)
        return picture, picture if aims is None else aims

    def _imagine(self, run: _Run, spec: UnclipSpec, captions: Tensor, context: RunContext) -> Tensor:
        """Picture vectors (N, D) of captions' vectors (N, D), by the prior."""
        started_at, settings = time.monotonic(), run.settings
        shared = self._batch((spec.model, "prior"), captions[0], lambda: prior_denoiser(run.unclip))
        denoiser = shared.stepper.denoiser
        rows = run.rows(denoiser, captions, "the prior", settings.prior_steps, settings.prior_guidance)

        def on_step() -> None:
            context.progress("prior", _taken(rows), run.steps)

        with shared.batch.joined(rows, on_step, max_rows=run.max_rows) as turns:
            for _ in turns:
                pass
        with self._device.step(KIND), torch.inference_mode():
            vectors = run.unclip.unit(torch.stack([row.state.noisy for row in rows]))
        run.timings["prior_s"] += time.monotonic() - started_at
        return vectors

    def _draw(self, run: _Run, spec: UnclipSpec, vectors: Tensor, context: RunContext) -> None:
        """Pictures of picture vectors (N, D), by the decoder."""
        with run.timed_sampling():
            settings = run.settings
            with self._device.step(KIND), torch.inference_mode():
                conditions = run.unclip.whiten(vectors)
            shared = self._batch(
                (spec.model, "decoder"), conditions[0], lambda: decoder_denoiser(run.unclip, run.vqgan)
            )
            denoiser = shared.stepper.denoiser
            rows = run.rows(denoiser, conditions, "the decoder", settings.decoder_steps, settings.guidance)
            previews = UnclipPreviews(self._device, run.unclip, run.vqgan, rows, spec.preview_every)
            imagined = len(rows) * settings.prior_steps

            def on_step() -> None:
                context.progress("sample", imagined + _taken(rows), run.steps)

            run.draw(shared.batch, rows, context, on_step, lambda: previews.show(context), lambda: previews.is_due)

    def _batch(
        self, key: tuple[str, str], like: Tensor, denoiser: Callable[[], Denoiser]
    ) -> SharedBatch[Drawn, DiffusionStepper]:
        """Of all rows of one part of one model. like: any condition (D,) of theirs."""
        device = self._device

        def make() -> DiffusionStepper:
            return DiffusionStepper(denoiser(), like, device.free_bytes, device.rows, device.is_deterministic)

        with device.step(KIND):
            return self._batches.get(key, make)


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


def _taken(rows: Sequence[Drawn]) -> int:
    """Steps of pictures."""
    return sum(row.state.position for row in rows)


def build(parts: EngineParts) -> UnclipEngine:
    """The engine, as the table of kinds names it."""
    return UnclipEngine(parts.library, parts.device, parts.embedder)
