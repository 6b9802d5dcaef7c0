"""Pictures token by token: n candidates per prompt, the best of them by CLIP kept.

One job's candidates are sampled in batches that the device can hold; a finished batch is decoded and scored at once,
so a job that is cancelled keeps what it has, and one that is lost samples only the rest: its snapshot holds the codes
of the finished batches. A picture depends on its prompt, seed and index only, not on n.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from shared.errors import Cancelled, DeadlineExceeded, InvalidInput, ModelUnavailable, Stopped
from shared.specs import MAX_SEED, DalleSpec
from worker.engines.base import Model, Monitor, Output, Picture, StoppedWithOutput, Task
from worker.engines.candidates import Candidate, best, decode, scores
from worker.engines.device import Device
from worker.engines.embeddings import Embedder
from worker.engines.identity import identity
from worker.engines.library import ModelLibrary
from worker.engines.pixels import contact_sheet, to_images, to_tensor
from worker.engines.snapshots import Saved, pack, unpack
from worker.models.dalle import Dalle
from worker.models.dalle_sampler import DalleSampler, RowSettings, blank_ids, decode_ids
from worker.models.vqgan import VQGAN

__all__ = ["DalleEngine"]

PREVIEWED = 4  # candidates a preview shows


@dataclass
class _Run:
    """One job under way."""

    spec: DalleSpec
    seed: int
    guidance: float
    model_ids: tuple[str, str, str]  # dalle, vqgan, clip
    dalle: Dalle
    vqgan: VQGAN
    text_ids: Tensor  # (P, T)
    prefix: Tensor | None  # (1, N)
    batch: int  # rows sampled together
    pictures: list[list[Picture]]  # per prompt
    rows: list[Candidate]  # all of them, in the order in which they are sampled
    identity: dict[str, str]  # of its snapshots
    batches: list[Tensor] = field(default_factory=list)  # codes of the finished rows, as they were sampled together
    timings: dict[str, float] = field(default_factory=lambda: {"sample_s": 0.0, "decode_s": 0.0, "rank_s": 0.0})

    @property
    def done(self) -> int:
        """How many rows are finished."""
        return sum(len(tokens) for tokens in self.batches)


class DalleEngine:
    """Serves every dalle model of the library with the VQGAN and CLIP its registry entry names."""

    kinds: tuple[str, ...] = ("dalle",)
    resumes = True

    def __init__(self, library: ModelLibrary, device: Device, embedder: Embedder) -> None:
        self._library = library
        self._device = device
        self._embedder = embedder
        self.device_name = device.name

    def load(self) -> list[Model]:
        """See Engine."""
        ids: list[str] = []
        for entry in self._library.entries("dalle"):
            names = self._companions(entry.id)
            _check_fit(self._library.dalle(names[0]), self._library.vqgan(names[1]), entry.id)
            self._library.clip(names[2])
            ids.extend(names)
        return self._library.describe(*ids)

    def _companions(self, model_id: str) -> tuple[str, str, str]:
        entry = self._library.entry(model_id, "dalle")
        if entry.vqgan is None or entry.clip is None:
            raise ModelUnavailable(f"the registry names no VQGAN or no CLIP for {model_id!r}")
        return entry.id, entry.vqgan, entry.clip

    def run(self, task: Task, monitor: Monitor) -> Output:
        """See Engine."""
        saved = unpack(task.snapshot, self._identity(task))
        run = self._begin(task, saved)
        try:
            self._take_up(run, saved, monitor)
            while (done := run.done) < len(run.rows):
                self._sample(run, run.rows[done : done + run.batch], done, monitor)
                monitor.snapshot(run.done, _maker(run))
        except Stopped as stop:
            if any(run.pictures) and isinstance(stop, Cancelled | DeadlineExceeded):
                raise StoppedWithOutput(stop, self._output(run)) from None
            raise
        return self._output(run)

    def _identity(self, task: Task) -> dict[str, str]:
        assert isinstance(task.spec, DalleSpec)
        return identity(task.spec, self._library.describe(*self._companions(task.spec.model)))

    def _begin(self, task: Task, saved: Saved | None) -> _Run:
        spec = task.spec
        assert isinstance(spec, DalleSpec)
        names = self._companions(spec.model)
        dalle, vqgan = self._library.dalle(names[0]), self._library.vqgan(names[1])
        encoded = self._library.tokenizer(names[0]).encode(spec.prompts, dalle.config.text_length, framed=False)
        return _Run(
            spec=spec,
            seed=_seed(spec, saved),
            guidance=dalle.config.guidance if spec.guidance is None else spec.guidance,
            model_ids=names,
            dalle=dalle,
            vqgan=vqgan,
            text_ids=encoded.ids,
            prefix=self._prefix(spec, task, vqgan),
            batch=max(1, self._device.rows >> 2 * task.failures),  # the last try may have been too much for the device
            pictures=[[] for _ in spec.prompts],
            rows=[Candidate(p, i) for p in range(len(spec.prompts)) for i in range(spec.n)],
            identity=self._identity(task),
        )

    def _take_up(self, run: _Run, saved: Saved | None, monitor: Monitor) -> None:
        """Decode and score again what an earlier attempt sampled, in the same batches, so to the same pictures."""
        for number in range(len(saved.tensors) if saved else 0):
            assert saved is not None
            tokens = saved.tensors[f"batch.{number}"].long().to(self._device.torch_device)
            self._finish(run, run.rows[run.done : run.done + len(tokens)], tokens, monitor)
        if run.done:
            monitor.resumed(run.done)

    def _prefix(self, spec: DalleSpec, task: Task, vqgan: VQGAN) -> Tensor | None:
        """Codes (1, rows * grid) of the top of the given picture."""
        if spec.image_prefix is None:
            return None
        kept, grid, side = spec.image_prefix.rows, vqgan.config.grid, vqgan.config.resolution
        if kept >= grid:
            raise InvalidInput(
                f"image_prefix.rows is {kept}; this model draws {grid} rows of tokens", field="input.image_prefix.rows"
            )
        picture = to_tensor(task.images[spec.image_prefix.image], (side, side)).to(self._device.torch_device)
        with self._device.step("dalle"), torch.inference_mode():
            codes = vqgan.quantize.nearest(vqgan.encode(picture * 2 - 1))
        return codes.flatten(1)[:, : kept * grid]

    def _sample(self, run: _Run, rows: list[Candidate], done: int, monitor: Monitor) -> None:
        """Sample, decode and score one batch. Progress counts tokens of all pictures of the job."""
        started_at, total = time.monotonic(), len(run.rows)
        sampler = self._sampler(run, rows)
        every = run.spec.preview_every

        def is_previewed(position: int) -> bool:
            return every > 0 and position % every == 0

        blank = self._blank(run) if run.spec.preview_every else None
        while not sampler.done:
            with self._device.turn("dalle") as turn:
                while turn.has_time and not sampler.done:
                    sampler.step()
                    turn.stepped()
                    tokens = done * sampler.length + sampler.position * len(rows)
                    monitor.progress("sample", tokens, total * sampler.length)
                    if is_previewed(sampler.position):
                        break
            if blank is not None and not sampler.done and is_previewed(sampler.position):
                self._preview(run, sampler, blank, done, monitor)
        run.timings["sample_s"] += time.monotonic() - started_at
        self._finish(run, rows, sampler.tokens, monitor)

    def _finish(self, run: _Run, rows: list[Candidate], tokens: Tensor, monitor: Monitor) -> None:
        """Decode and score one batch whose codes (B, L) are sampled."""
        sampled_at = time.monotonic()
        pictures = decode(self._device, run.vqgan, tokens, "dalle", monitor)
        decoded_at = time.monotonic()
        texts = self._embedder.texts(run.model_ids[2], [run.spec.prompts[row.prompt] for row in rows], "dalle")
        found = scores(self._embedder, run.model_ids[2], pictures, texts, "dalle")
        for row, image, score in zip(rows, to_images(pictures), found, strict=True):
            picture = Picture(image, run.spec.prompts[row.prompt], run.seed, row.index, score)
            run.pictures[row.prompt].append(picture)
        run.batches.append(tokens)
        run.timings["decode_s"] += decoded_at - sampled_at
        run.timings["rank_s"] += time.monotonic() - decoded_at

    def _sampler(self, run: _Run, rows: list[Candidate]) -> DalleSampler:
        spec = run.spec
        settings = [
            RowSettings(run.seed, row.index, spec.temperature, spec.top_k, spec.top_p, run.guidance) for row in rows
        ]
        ids = run.text_ids[torch.tensor([row.prompt for row in rows])]
        prefix = None if run.prefix is None else run.prefix.expand(len(rows), -1)
        with self._device.step("dalle"), torch.inference_mode():
            return DalleSampler(run.dalle, ids, settings, prefix)

    def _blank(self, run: _Run) -> Tensor:
        with self._device.step("dalle"):
            return blank_ids(run.vqgan)

    def _preview(self, run: _Run, sampler: DalleSampler, blank: Tensor, done: int, monitor: Monitor) -> None:
        with self._device.step("dalle"), torch.inference_mode():
            shown = decode_ids(run.vqgan, sampler.preview_ids(blank)[:PREVIEWED])
        monitor.preview(contact_sheet(to_images(shown)), done // run.batch * sampler.length + sampler.position)

    def _output(self, run: _Run) -> Output:
        keep = run.spec.n if run.spec.keep is None else run.spec.keep
        parameters: dict[str, Any] = run.spec.model_dump(exclude={"kind"})
        parameters.update(keep=keep, seed=run.seed, guidance=run.guidance)
        return Output(
            pictures=list(best(run.pictures, keep)),
            parameters=parameters,
            models=self._library.describe(*run.model_ids),
            timings=run.timings,
        )


def _maker(run: _Run) -> Callable[[], bytes]:
    """What saves the finished batches when called."""

    def make() -> bytes:
        tensors = {f"batch.{number}": tokens.int().cpu() for number, tokens in enumerate(run.batches)}
        return pack(run.identity, tensors, {"seed": str(run.seed)})

    return make


def _seed(spec: DalleSpec, saved: Saved | None) -> int:
    """The spec's, or the one that was drawn for it."""
    if spec.seed is not None:
        return spec.seed
    return int(saved.facts["seed"]) if saved else secrets.randbelow(MAX_SEED)


def _check_fit(dalle: Dalle, vqgan: VQGAN, model_id: str) -> None:
    ours, theirs = (dalle.config.grid, dalle.config.image_vocab), (vqgan.config.grid, vqgan.config.codes)
    if ours != theirs:
        raise ModelUnavailable(f"{model_id!r} draws (grid, codes) {ours}, but its VQGAN decodes {theirs}")
