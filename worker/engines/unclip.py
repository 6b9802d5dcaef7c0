"""Pictures by diffusion: a caption's CLIP vector to a picture's by the prior, that to a latent by the decoder.

With a picture given, its own vector takes the prior's place: variations of it. Candidates are drawn in batches that the
device can hold; a finished batch is decoded and scored at once, so a job that is cancelled keeps what it has. A picture
depends on its prompt, seed and index only, not on n.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from shared.errors import ModelUnavailable, NonFinite
from shared.specs import UnclipSpec
from worker.engines.base import Model, Monitor, Output, Picture, Task, keeping
from worker.engines.candidates import Candidate, best, decode, rows_at_once, scores
from worker.engines.device import Device
from worker.engines.embeddings import Embedder
from worker.engines.library import ModelLibrary
from worker.engines.pixels import contact_sheet, to_images, to_tensor
from worker.engines.snapshots import seed_of
from worker.models.dalle_sampler import decode_ids
from worker.models.diffusion import DiffusionRow, DiffusionSampler
from worker.models.errors import ShapeError
from worker.models.unclip import Unclip
from worker.models.unclip_sampler import check_fit, codes_of, decoder_sampler, picture_vectors, prior_sampler
from worker.models.vqgan import VQGAN

__all__ = ["UnclipEngine"]

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
    batch: int  # candidates drawn together
    begun: int = 0  # candidates of the batches before the one under way
    timings: dict[str, float] = field(
        default_factory=lambda: {"prior_s": 0.0, "sample_s": 0.0, "decode_s": 0.0, "rank_s": 0.0}
    )

    @property
    def steps(self) -> int:
        """Of one picture, prior and decoder together."""
        return self.settings.prior_steps + self.settings.decoder_steps


class UnclipEngine:
    """Serves every unclip model of the library with the VQGAN and CLIP its registry entry names."""

    kinds: tuple[str, ...] = (KIND,)
    resumes = False  # 512 pictures take seconds on a GPU

    def __init__(self, library: ModelLibrary, device: Device, embedder: Embedder) -> None:
        self._library = library
        self._device = device
        self._embedder = embedder
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

    def run(self, task: Task, monitor: Monitor) -> Output:
        """See Engine."""
        run = self._begin(task)
        with keeping(lambda: self._output(run) if any(run.pictures) else None):
            for begin in range(0, len(run.candidates), run.batch):
                run.begun = begin
                self._batch(run, run.candidates[begin : begin + run.batch], monitor)
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
            batch=rows_at_once(self._device, task),
        )

    def _picture(self, clip: str, task: Task, ref: str) -> Tensor:
        """(1, D) of the given picture."""
        side = self._library.clip(clip).image_size_px
        pixels = to_tensor(task.images[ref], (side, side)).to(self._device.torch_device)
        return self._embedder.tensors(clip, pixels)

    def _batch(self, run: _Run, part: list[Candidate], monitor: Monitor) -> None:
        """Draw, decode and score one batch. Progress counts the steps of all pictures of the job."""
        marks = [time.monotonic()]
        places = torch.tensor([candidate.prompt for candidate in part], device=run.vectors.device)
        vectors = run.vectors[places]
        if run.settings.prior_steps:
            vectors = self._imagine(run, part, vectors, monitor)
        marks.append(time.monotonic())
        codes = self._draw(run, part, vectors, monitor)
        marks.append(time.monotonic())
        pictures = decode(self._device, run.vqgan, codes, KIND, monitor)
        marks.append(time.monotonic())
        found = scores(self._embedder, run.model_ids[2], pictures, run.targets[places])
        for candidate, image, score in zip(part, to_images(pictures), found, strict=True):
            picture = Picture(image, run.prompts[candidate.prompt], run.settings.seed, candidate.index, score)
            run.pictures[candidate.prompt].append(picture)
        marks.append(time.monotonic())
        for name, begun_at, ended_at in zip(run.timings, marks, marks[1:], strict=False):
            run.timings[name] += ended_at - begun_at

    def _imagine(self, run: _Run, part: list[Candidate], captions: Tensor, monitor: Monitor) -> Tensor:
        """Picture vectors (B, D) of captions' vectors (B, D)."""
        settings = run.settings
        rows = _rows(settings.seed, part, settings.prior_steps, settings.prior_guidance)
        sampler = prior_sampler(run.unclip, captions, rows)

        def stepped() -> bool:
            self._check(run, part, sampler, "the prior")
            monitor.progress("prior", *_told(run, part, sampler.taken))
            return False

        self._drive(sampler, stepped)
        with self._device.step(KIND):
            return picture_vectors(run.unclip, sampler)

    def _draw(self, run: _Run, part: list[Candidate], vectors: Tensor, monitor: Monitor) -> Tensor:
        """Codes (B, h, w) of picture vectors (B, D)."""
        settings, every = run.settings, run.spec.preview_every
        rows = _rows(settings.seed, part, settings.decoder_steps, settings.guidance)
        with self._device.step(KIND), torch.inference_mode():
            sampler = decoder_sampler(run.unclip, run.vqgan, vectors, rows)

        def is_previewed() -> bool:
            return every > 0 and sampler.taken % every == 0 and not sampler.done

        def stepped() -> bool:
            self._check(run, part, sampler, "the decoder")
            monitor.progress("sample", *_told(run, part, settings.prior_steps + sampler.taken))
            return is_previewed()

        while not sampler.done:
            self._drive(sampler, stepped)
            if is_previewed():
                self._preview(run, sampler, monitor)
        with self._device.step(KIND):
            return codes_of(run.unclip, run.vqgan, sampler.rows)

    def _drive(self, sampler: DiffusionSampler, stepped: Callable[[], bool]) -> None:
        """Steps, in as many turns as they take, to the end or until `stepped` says to pause."""
        is_paused = False
        while not sampler.done and not is_paused:
            with self._device.turn(KIND) as turn:
                while turn.has_time and not sampler.done and not is_paused:
                    sampler.step()
                    turn.stepped()
                    is_paused = stepped()

    def _check(self, run: _Run, part: list[Candidate], sampler: DiffusionSampler, who: str) -> None:
        good = torch.isfinite(sampler.rows).flatten(1).all(1)
        if not bool(good.all()):
            bad = part[int((~good).nonzero()[0])]
            raise NonFinite(
                f"{who} made NaN or infinity at step {sampler.taken}, in candidate {bad.index} of "
                f"{run.prompts[bad.prompt]!r}"
            )

    def _preview(self, run: _Run, sampler: DiffusionSampler, monitor: Monitor) -> None:
        with self._device.step(KIND):
            codes = codes_of(run.unclip, run.vqgan, sampler.estimate[:PREVIEWED])
            shown = decode_ids(run.vqgan, codes)
        monitor.preview(contact_sheet(to_images(shown)), run.begun // run.batch * sampler.length + sampler.taken)

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


def _rows(seed: int, part: list[Candidate], steps: int, guidance: float) -> list[DiffusionRow]:
    return [DiffusionRow(seed, candidate.index, steps, guidance) for candidate in part]


def _told(run: _Run, part: list[Candidate], steps: int) -> tuple[int, int]:
    """How many steps of pictures are done of how many, `steps` into the batch under way."""
    return run.begun * run.steps + steps * len(part), len(run.candidates) * run.steps
