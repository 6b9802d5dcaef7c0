"""Pictures token by token: n candidates per prompt, the best of them by CLIP kept.

One job's candidates are sampled in batches that the device can hold; a finished batch is decoded and scored at once,
so a job that is cancelled keeps what it has, and one that is lost samples only the rest: its snapshot holds the codes
of the finished batches, and those so far of the batch under way, which the model reads again in one pass. A picture
depends on its prompt, seed and index only, not on n.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from shared.errors import InvalidInput, ModelUnavailable
from shared.specs import DalleSpec
from worker.engines.base import Model, Monitor, Output, Picture, Task, keeping
from worker.engines.candidates import Candidate, best, decode, rows_at_once, scores
from worker.engines.device import Device
from worker.engines.embeddings import Embedder
from worker.engines.identity import identity
from worker.engines.library import ModelLibrary
from worker.engines.pixels import contact_sheet, to_images, to_tensor
from worker.engines.snapshots import Saved, pack, seed_of, unpack
from worker.models.dalle import Dalle
from worker.models.dalle_sampler import DalleSampler, RowSettings, blank_ids, decode_ids
from worker.models.vqgan import VQGAN

__all__ = ["DalleEngine"]

PREVIEWED = 4  # candidates a preview shows
BEGUN = "begun"  # in a snapshot: the codes (B, N) so far of the batch under way; "batch.0" and on are finished


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
    sampler: DalleSampler | None = None  # of the batch under way
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
            names = self._library.companions(entry.id, "dalle")
            _check_fit(self._library.dalle(names[0]), self._library.vqgan(names[1]), entry.id)
            self._library.clip(names[2])
            ids.extend(names)
        return self._library.describe(*ids)

    def run(self, task: Task, monitor: Monitor) -> Output:
        """See Engine."""
        saved = unpack(task.snapshot, self._identity(task))
        run = self._begin(task, saved)
        with keeping(lambda: self._output(run) if any(run.pictures) else None):
            begun = self._take_up(run, saved, monitor)
            while (done := run.done) < len(run.rows):
                rows = run.rows[done : done + (run.batch if begun is None else len(begun))]
                self._sample(run, rows, begun, monitor)
                begun = None
        return self._output(run)

    def _identity(self, task: Task) -> dict[str, str]:
        assert isinstance(task.spec, DalleSpec)
        return identity(task.spec, self._library.describe(*self._library.companions(task.spec.model, "dalle")))

    def _begin(self, task: Task, saved: Saved | None) -> _Run:
        spec = task.spec
        assert isinstance(spec, DalleSpec)
        names = self._library.companions(spec.model, "dalle")
        dalle, vqgan = self._library.dalle(names[0]), self._library.vqgan(names[1])
        encoded = self._library.tokenizer(names[0]).encode(spec.prompts, dalle.config.text_length, framed=False)
        return _Run(
            spec=spec,
            seed=seed_of(spec.seed, saved),
            guidance=dalle.config.guidance if spec.guidance is None else spec.guidance,
            model_ids=names,
            dalle=dalle,
            vqgan=vqgan,
            text_ids=encoded.ids,
            prefix=self._prefix(spec, task, vqgan),
            batch=rows_at_once(self._device, task),
            pictures=[[] for _ in spec.prompts],
            rows=[Candidate(p, i) for p in range(len(spec.prompts)) for i in range(spec.n)],
            identity=self._identity(task),
        )

    def _take_up(self, run: _Run, saved: Saved | None, monitor: Monitor) -> Tensor | None:
        """Decode and score again what an earlier attempt sampled, in the same batches, so to the same pictures. Returns
        the codes (B, N) of the batch it had begun, of as many rows as may be sampled now."""
        if saved is None:
            return None
        known = {name: ids.long().to(self._device.torch_device) for name, ids in saved.tensors.items()}
        begun = known.pop(BEGUN, None)
        for number in range(len(known)):
            tokens = known[f"batch.{number}"]
            self._finish(run, run.rows[run.done : run.done + len(tokens)], tokens, monitor)
        length = run.dalle.config.image_length
        if begun is not None and begun.shape[1] == length:
            self._finish(run, run.rows[run.done : run.done + len(begun)], begun, monitor)
            begun = None
        begun = None if begun is None else begun[: run.batch]
        monitor.resumed(run.done * length + (0 if begun is None else begun.numel()))
        return begun

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

    def _sample(self, run: _Run, rows: list[Candidate], begun: Tensor | None, monitor: Monitor) -> None:
        """Sample, decode and score one batch, `begun` (B, N) or new. Progress counts tokens of all pictures."""
        started_at, done, total = time.monotonic(), run.done, len(run.rows)
        run.sampler = sampler = self._sampler(run, rows, begun)
        every, make = run.spec.preview_every, _maker(run)

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
            monitor.snapshot(done * sampler.length + sampler.position * len(rows), make)
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
        found = scores(self._embedder, run.model_ids[2], pictures, texts, "dalle", monitor)
        for row, image, score in zip(rows, to_images(pictures), found, strict=True):
            picture = Picture(image, run.spec.prompts[row.prompt], run.seed, row.index, score)
            run.pictures[row.prompt].append(picture)
        run.batches.append(tokens)
        run.sampler = None
        run.timings["decode_s"] += decoded_at - sampled_at
        run.timings["rank_s"] += time.monotonic() - decoded_at

    def _sampler(self, run: _Run, rows: list[Candidate], begun: Tensor | None) -> DalleSampler:
        spec = run.spec
        settings = [
            RowSettings(run.seed, row.index, spec.temperature, spec.top_k, spec.top_p, run.guidance) for row in rows
        ]
        ids = run.text_ids[torch.tensor([row.prompt for row in rows])]
        prefix = begun
        if prefix is None and run.prefix is not None:
            prefix = run.prefix.expand(len(rows), -1)
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
    """What saves the finished batches when called, and the one under way."""

    def make() -> bytes:
        tensors = {f"batch.{number}": tokens.int().cpu() for number, tokens in enumerate(run.batches)}
        if run.sampler is not None and run.sampler.position:
            tensors[BEGUN] = run.sampler.tokens[:, : run.sampler.position].int().cpu().contiguous()
        return pack(run.identity, tensors, {"seed": str(run.seed)})

    return make


def _check_fit(dalle: Dalle, vqgan: VQGAN, model_id: str) -> None:
    ours, theirs = (dalle.config.grid, dalle.config.image_vocab), (vqgan.config.grid, vqgan.config.codes)
    if ours != theirs:
        raise ModelUnavailable(f"{model_id!r} draws (grid, codes) {ours}, but its VQGAN decodes {theirs}")
