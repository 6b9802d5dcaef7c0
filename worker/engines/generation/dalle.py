"""Pictures token by token: n candidates per prompt, the best of them by CLIP kept.

The candidates of all jobs with one model step in one batch (worker.engines.generation.dalle_stepper). Those that are
finished are decoded and scored while the others go on, so a job that is cancelled keeps what it has, and one that is
lost samples only the rest: its snapshot holds the codes of all candidates so far, which the model reads again in one
pass. A picture depends on its prompt, seed and index only, not on n nor on what shares the batch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from shared.errors import InvalidInput, ModelUnavailable
from shared.specs.generation import DalleSpec
from worker.engines.base import Model, Output, Picture, RunContext, Task, keeping
from worker.engines.embedding.embedder import Embedder
from worker.engines.generation.candidates import Candidate, best, decode, rows_at_once, scores
from worker.engines.generation.dalle_stepper import Drawing, TokenStepper
from worker.engines.generation.snapshots import Saved, pack, seed_of, unpack
from worker.engines.identity import identity
from worker.engines.images import contact_sheet, to_images, to_tensor
from worker.engines.library import ModelLibrary
from worker.engines.options import EngineParts
from worker.engines.scheduling.batch import Batch
from worker.engines.scheduling.device import Device
from worker.models.dalle.code_model import CodeModel
from worker.models.dalle.pictures import blank_ids, decode_ids, preview_ids
from worker.models.dalle.rows import DalleRow, RowSettings
from worker.models.vqgan.vqgan import VQGAN

__all__ = ["DalleEngine", "build"]

KIND = "dalle"
PREVIEWED = 4  # candidates a preview shows
KNOWN = "known"  # in a snapshot: how many codes (R,) of every row are there; "codes" (R, N) holds them
GROUPS = "groups"  # in a snapshot: which rows were decoded together, (G, DECODED_TOGETHER), -1 where there is none


@dataclass
class _Run:
    """One job under way."""

    spec: DalleSpec
    seed: int
    guidance: float
    model_ids: tuple[str, str, str]  # dalle, vqgan, clip
    dalle: CodeModel
    vqgan: VQGAN
    rows: list[Drawing]  # all of them, in the order in which they come into the batch
    max_rows: int  # rows in the batch at once
    pictures: list[list[Picture]]  # per prompt
    identity: dict[str, str]  # of its snapshots
    ready: list[Drawing] = field(default_factory=list)  # sampled, not decoded yet
    groups: list[list[Drawing]] = field(default_factory=list)  # decoded, as they were together
    shown: list[Drawing] = field(default_factory=list)  # whom previews show
    waves: int = 0  # of those, before these
    shown_at: int = 0  # codes per picture of the last preview
    timings: dict[str, float] = field(default_factory=lambda: {"sample_s": 0.0, "decode_s": 0.0, "rank_s": 0.0})

    @property
    def known(self) -> int:
        """Codes that are there, of all pictures."""
        return sum(drawing.row.known for drawing in self.rows)

    @property
    def total(self) -> int:
        """Codes of all pictures."""
        return len(self.rows) * self.dalle.image_length


class DalleEngine:
    """Serves every dalle model of the library with the VQGAN and CLIP its registry entry names."""

    resumes = True

    def __init__(self, library: ModelLibrary, device: Device, embedder: Embedder) -> None:
        self._library = library
        self._device = device
        self._embedder = embedder
        self._lock = threading.Lock()
        self._batches: dict[str, tuple[Batch[Drawing], TokenStepper]] = {}
        self.device_name = device.name

    def load(self) -> list[Model]:
        """See Engine."""
        ids: list[str] = []
        for entry in self._library.entries(KIND):
            names = self._library.companions(entry.id, KIND)
            _check_fit(self._library.dalle(names[0]), self._library.vqgan(names[1]), entry.id)
            self._library.clip(names[2])
            ids.extend(names)
        return self._library.describe(*ids)

    def run(self, task: Task, context: RunContext) -> Output:
        """See Engine."""
        saved = unpack(task.snapshot, self._identity(task))
        run = self._begin(task, saved)
        with keeping(lambda: self._kept(run)):
            if saved is not None:
                self._take_up(run, saved, context)
            self._sample(run, context)
        return self._output(run)

    def _identity(self, task: Task) -> dict[str, str]:
        assert isinstance(task.spec, DalleSpec)
        return identity(task.spec, self._library.describe(*self._library.companions(task.spec.model, KIND)))

    # --- begin ---------------------------------------------------------------------------------------------------

    def _begin(self, task: Task, saved: Saved | None) -> _Run:
        spec = task.spec
        assert isinstance(spec, DalleSpec)
        names = self._library.companions(spec.model, KIND)
        dalle, vqgan = self._library.dalle(names[0]), self._library.vqgan(names[1])
        run = _Run(
            spec=spec,
            seed=seed_of(spec.seed, saved),
            guidance=dalle.guidance if spec.guidance is None else spec.guidance,
            model_ids=names,
            dalle=dalle,
            vqgan=vqgan,
            rows=[],
            max_rows=rows_at_once(self._device, task),
            pictures=[[] for _ in spec.prompts],
            identity=self._identity(task),
        )
        text_ids = self._library.tokenizer(names[0]).encode(spec.prompts, dalle.text_length, framed=False).ids
        prefix = self._prefix(spec, task, vqgan)
        for place in range(len(spec.prompts) * spec.n):
            prompt, index = divmod(place, spec.n)
            settings = RowSettings(run.seed, index, spec.temperature, spec.top_k, spec.top_p, run.guidance)
            row = DalleRow(settings, text_ids[prompt], dalle.image_length, prefix)
            run.rows.append(Drawing(Candidate(prompt, index), spec.prompts[prompt], row))
        return run

    def _prefix(self, spec: DalleSpec, task: Task, vqgan: VQGAN) -> Tensor | None:
        """Codes (rows * grid,) of the top of the given picture."""
        if spec.image_prefix is None:
            return None
        kept, grid, side = spec.image_prefix.rows, vqgan.config.grid, vqgan.config.resolution
        if kept >= grid:
            raise InvalidInput(
                f"image_prefix.rows is {kept}; this model draws {grid} rows of tokens", field="input.image_prefix.rows"
            )
        if not vqgan.config.encodes:
            raise InvalidInput(
                "this model's VQGAN came without its encoder: no picture can be gone on from",
                field="input.image_prefix",
            )
        picture = to_tensor(task.images[spec.image_prefix.image], (side, side)).to(self._device.torch_device)
        with self._device.step(KIND), torch.inference_mode():
            codes = vqgan.quantize.nearest(vqgan.encode(picture * 2 - 1))
        return codes.flatten()[: kept * grid].cpu()

    def _take_up(self, run: _Run, saved: Saved, context: RunContext) -> None:
        """Give the rows the codes an earlier attempt sampled; decode and score again what it had, in the same groups,
        so to the same pictures."""
        known, codes = saved.tensors[KNOWN].tolist(), saved.tensors["codes"].long()
        for drawing, count, ids in zip(run.rows, known, codes, strict=True):
            drawing.row.tokens[:count] = ids[:count]
            drawing.row.known = count
        for places in saved.tensors[GROUPS].tolist():
            self._finish(run, [run.rows[place] for place in places if place >= 0], context)
        decoded = {id(drawing) for group in run.groups for drawing in group}
        run.ready = [drawing for drawing in run.rows if drawing.done and id(drawing) not in decoded]
        context.resumed(run.known)

    # --- sample --------------------------------------------------------------------------------------------------

    def _sample(self, run: _Run, context: RunContext) -> None:
        """Draw what is left, with the jobs that are there; decode and score in groups, as it comes."""
        started_at, busy_s = time.monotonic(), sum(run.timings.values())
        batch, stepper = self._batch(run.model_ids[0], run.dalle)
        rows = [drawing for drawing in run.rows if not drawing.done]
        make, preview = self._maker(run, stepper), self._previewer(run, stepper, context)

        def on_step() -> None:
            context.progress("sample", run.known, run.total)

        context.snapshot(run.known, make)
        with batch.joined(rows, on_step, max_rows=run.max_rows) as turns:
            for finished in turns:
                run.ready += finished
                context.snapshot(run.known, make)
                preview()
                self._finish_ready(run, context, at_least=self._device.group)
        self._finish_ready(run, context)
        run.timings["sample_s"] += time.monotonic() - started_at - (sum(run.timings.values()) - busy_s)

    def _batch(self, model_id: str, model: CodeModel) -> tuple[Batch[Drawing], TokenStepper]:
        with self._lock:
            if model_id not in self._batches:
                stepper = TokenStepper(model, self._device)
                self._batches[model_id] = (self._device.batch(KIND, stepper), stepper)
            return self._batches[model_id]

    def _finish_ready(self, run: _Run, context: RunContext | None, at_least: int = 1) -> None:
        while len(run.ready) >= at_least:
            group = run.ready[: self._device.group]
            self._finish(run, group, context)
            run.ready = run.ready[len(group) :]

    def _finish(self, run: _Run, group: list[Drawing], context: RunContext | None) -> None:
        """Decode and score one group whose codes are sampled."""
        sampled_at = time.monotonic()
        codes = torch.stack([drawing.row.tokens for drawing in group]).to(self._device.torch_device)
        pictures = decode(self._device, run.vqgan, codes, KIND, context)
        decoded_at = time.monotonic()
        clip = run.model_ids[2]
        texts = self._embedder.texts(clip, [drawing.prompt for drawing in group])
        found = scores(self._embedder, clip, pictures, texts)
        for drawing, image, score in zip(group, to_images(pictures), found, strict=True):
            candidate = drawing.candidate
            run.pictures[candidate.prompt].append(Picture(image, drawing.prompt, run.seed, candidate.index, score))
        run.groups.append(group)
        run.timings["decode_s"] += decoded_at - sampled_at
        run.timings["rank_s"] += time.monotonic() - decoded_at

    # --- what is seen and saved of it ----------------------------------------------------------------------------

    def _previewer(self, run: _Run, stepper: TokenStepper, context: RunContext) -> Callable[[], None]:
        """What shows a few candidates whenever they have so many codes more; when they are finished, the next few."""
        every, length = run.spec.preview_every, run.dalle.image_length
        blank = self._blank(run) if every else None

        def preview() -> None:
            if blank is None:
                return
            at = min((drawing.row.known for drawing in run.shown), default=0)
            for place in range(run.shown_at + every, min(at, length - 1) + 1, every):
                self._show(run, stepper, blank, place, context)
            if at == length or not run.shown:
                run.waves += bool(run.shown)
                run.shown = [drawing for drawing in run.rows if not drawing.done][:PREVIEWED]
                run.shown_at = min((drawing.row.known for drawing in run.shown), default=0) // every * every

        preview()
        return preview

    def _show(self, run: _Run, stepper: TokenStepper, blank: Tensor, place: int, context: RunContext) -> None:
        """A preview of the first `place` codes of those that are shown."""
        run.shown_at = place
        with self._device.step(KIND), torch.inference_mode():
            stepper.sync()
            ids = torch.stack([preview_ids(drawing.row.tokens[:place], blank) for drawing in run.shown])
            pictures = decode_ids(run.vqgan, ids.to(self._device.torch_device))
        context.preview(contact_sheet(to_images(pictures)), run.waves * run.dalle.image_length + place)

    def _blank(self, run: _Run) -> Tensor:
        with self._device.step(KIND):
            return blank_ids(run.vqgan).cpu()

    def _maker(self, run: _Run, stepper: TokenStepper) -> Callable[[], bytes]:
        """What saves the codes that are there when called."""
        place = {id(drawing): number for number, drawing in enumerate(run.rows)}

        def make() -> bytes:
            with self._device.step(KIND):
                stepper.sync()
                known = torch.tensor([drawing.row.known for drawing in run.rows], dtype=torch.int32)
                codes = torch.stack([drawing.row.tokens for drawing in run.rows]).int()
            groups = torch.full((len(run.groups), self._device.group), -1, dtype=torch.int32)
            for number, group in enumerate(run.groups):
                groups[number, : len(group)] = torch.tensor([place[id(drawing)] for drawing in group])
            tensors = {KNOWN: known, "codes": codes, GROUPS: groups}
            return pack(run.identity, tensors, {"seed": str(run.seed)})

        return make

    def _kept(self, run: _Run) -> Output | None:
        """What a job that was stopped has: its decoded pictures, and those of which only that was left."""
        self._finish_ready(run, None)
        return self._output(run) if any(run.pictures) else None

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


def _check_fit(dalle: CodeModel, vqgan: VQGAN, model_id: str) -> None:
    ours, theirs = (dalle.grid, dalle.image_vocab), (vqgan.config.grid, vqgan.config.codes)
    if ours != theirs:
        raise ModelUnavailable(f"{model_id!r} draws (grid, codes) {ours}, but its VQGAN decodes {theirs}")


def build(parts: EngineParts) -> DalleEngine:
    """The engine, as the table of kinds names it."""
    return DalleEngine(parts.library, parts.device, parts.embedder)
