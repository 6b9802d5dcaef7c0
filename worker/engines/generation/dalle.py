"""Pictures token by token: n candidates per prompt, the best of them by CLIP kept.

The candidates of all jobs with one model step in one batch (worker.engines.generation.dalle_stepper). Those that are
finished are decoded and scored while the others go on, so a job that is cancelled keeps what it has, and one that is
lost samples only the rest: its snapshot holds the codes of all candidates so far, which the model reads again in one
pass. A picture depends on its prompt, seed and index only, not on n nor on what shares the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.errors import InvalidInput, ModelUnavailable
from shared.specs.generation import DalleSpec
from worker.engines.base import Model, Output, RunContext, Task, keeping
from worker.engines.embedding.embedder import Embedder
from worker.engines.generation.candidates import Candidate, CandidateRun, rows_at_once
from worker.engines.generation.dalle_previews import DallePreviews
from worker.engines.generation.dalle_stepper import KIND, Drawing, TokenStepper
from worker.engines.generation.snapshots import Saved, pack, seed_of, unpack
from worker.engines.identity import identity
from worker.engines.images import to_tensor
from worker.engines.library import ModelLibrary
from worker.engines.options import EngineParts
from worker.engines.scheduling.batch_cache import BatchCache
from worker.engines.scheduling.device import Device
from worker.models.dalle.code_model import CodeModel
from worker.models.dalle.rows import DalleRow, RowSettings
from worker.models.vqgan.vqgan import VQGAN

__all__ = ["DalleEngine", "build"]

KNOWN = "known"  # in a snapshot: how many codes (R,) of every row are there; "codes" (R, N) holds them
GROUPS = "groups"  # in a snapshot: which rows were decoded together, (G, DECODED_TOGETHER), -1 where there is none


@dataclass(kw_only=True)
class _Run(CandidateRun[Drawing]):
    """One job under way."""

    rows: list[Drawing]  # all of them, in the order in which they come into the batch
    identity: dict[str, str]  # of its snapshots

    @property
    def known(self) -> int:
        """Codes that are there, of all pictures."""
        return sum(drawing.row.known for drawing in self.rows)

    def codes(self, group: Sequence[Drawing]) -> Tensor:
        """See CandidateRun."""
        return torch.stack([drawing.row.tokens for drawing in group]).to(self.device.torch_device)

    def targets(self, group: Sequence[Drawing]) -> Tensor:
        """See CandidateRun."""
        return self.embedder.texts(self.clip, [drawing.prompt for drawing in group])

    def take_up(self, saved: Saved, context: RunContext) -> None:
        """Give the rows the codes an earlier attempt sampled; decode and score again what it had, in the same groups,
        so to the same pictures."""
        known, codes = saved.tensors[KNOWN].tolist(), saved.tensors["codes"].long()
        for drawing, count, ids in zip(self.rows, known, codes, strict=True):
            drawing.row.tokens[:count] = ids[:count]
            drawing.row.known = count
        for places in saved.tensors[GROUPS].tolist():
            self.finish([self.rows[place] for place in places if place >= 0], context)
        decoded = {id(drawing) for group in self.groups for drawing in group}
        self.ready = [drawing for drawing in self.rows if drawing.done and id(drawing) not in decoded]
        context.resumed(self.known)

    def saved(self, stepper: TokenStepper) -> bytes:
        """The codes that are there now."""
        with self.device.step(KIND):
            stepper.sync()
            known = torch.tensor([drawing.row.known for drawing in self.rows], dtype=torch.int32)
            codes = torch.stack([drawing.row.tokens for drawing in self.rows]).int()
        place = {id(drawing): number for number, drawing in enumerate(self.rows)}
        groups = torch.full((len(self.groups), self.device.group), -1, dtype=torch.int32)
        for number, group in enumerate(self.groups):
            groups[number, : len(group)] = torch.tensor([place[id(drawing)] for drawing in group])
        return pack(self.identity, {KNOWN: known, "codes": codes, GROUPS: groups}, {"seed": str(self.seed)})


class DalleEngine:
    """Serves every dalle model of the library with the VQGAN and CLIP its registry entry names."""

    resumes = True

    def __init__(self, library: ModelLibrary, device: Device, embedder: Embedder) -> None:
        self._library = library
        self._device = device
        self._embedder = embedder
        self._batches = BatchCache[Drawing, TokenStepper](device, KIND)
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

    def run(self, task: Task[DalleSpec], context: RunContext) -> Output:
        """See Engine."""
        spec = task.spec
        own = identity(spec, self._library.describe(*self._library.companions(spec.model, KIND)))
        saved = unpack(task.snapshot, own)
        run = self._begin(task, seed_of(spec.seed, saved), own)
        with keeping(run.kept):
            if saved is not None:
                run.take_up(saved, context)
            self._sample(run, spec, context)
        return run.output()

    def _begin(self, task: Task[DalleSpec], seed: int, own: dict[str, str]) -> _Run:
        spec = task.spec
        names = self._library.companions(spec.model, KIND)
        dalle, vqgan = self._library.dalle(names[0]), self._library.vqgan(names[1])
        guidance = dalle.guidance if spec.guidance is None else spec.guidance
        keep = spec.n if spec.keep is None else spec.keep
        parameters = spec.model_dump(exclude={"kind"}) | {"keep": keep, "seed": seed, "guidance": guidance}
        return _Run(
            kind=KIND,
            device=self._device,
            embedder=self._embedder,
            vqgan=vqgan,
            clip=names[2],
            seed=seed,
            max_rows=rows_at_once(self._device, task),
            keep=keep,
            pictures=[[] for _ in spec.prompts],
            parameters=parameters,
            models=self._library.describe(*names),
            timings={"sample_s": 0.0, "decode_s": 0.0, "rank_s": 0.0},
            rows=self._rows(task, seed, guidance, dalle, vqgan),
            identity=own,
        )

    def _rows(self, task: Task[DalleSpec], seed: int, guidance: float, dalle: CodeModel, vqgan: VQGAN) -> list[Drawing]:
        spec = task.spec
        text_ids = self._library.tokenizer(spec.model).encode(spec.prompts, dalle.text_length, framed=False).ids
        prefix = self._prefix(task, vqgan)
        rows = []
        for place in range(len(spec.prompts) * spec.n):
            prompt, index = divmod(place, spec.n)
            settings = RowSettings(seed, index, spec.temperature, spec.top_k, spec.top_p, guidance)
            row = DalleRow(settings, text_ids[prompt], dalle.image_length, prefix)
            rows.append(Drawing(Candidate(prompt, index), spec.prompts[prompt], row))
        return rows

    def _prefix(self, task: Task[DalleSpec], vqgan: VQGAN) -> Tensor | None:
        """Codes (rows * grid,) of the top of the given picture."""
        given = task.spec.image_prefix
        if given is None:
            return None
        grid, side = vqgan.config.grid, vqgan.config.resolution
        if given.rows >= grid:
            raise InvalidInput(
                f"image_prefix.rows is {given.rows}; this model draws {grid} rows of tokens",
                field="input.image_prefix.rows",
            )
        if not vqgan.config.encodes:
            raise InvalidInput(
                "this model's VQGAN came without its encoder: no picture can be gone on from",
                field="input.image_prefix",
            )
        picture = to_tensor(task.images[given.image], (side, side)).to(self._device.torch_device)
        with self._device.step(KIND), torch.inference_mode():
            codes = vqgan.quantize.nearest(vqgan.encode(picture * 2 - 1))
        return codes.flatten()[: given.rows * grid].cpu()

    def _sample(self, run: _Run, spec: DalleSpec, context: RunContext) -> None:
        """Draw what is left."""
        with run.timed_sampling():
            dalle = self._library.dalle(spec.model)
            shared = self._batches.get(spec.model, lambda: TokenStepper(dalle, self._device))
            stepper = shared.stepper
            rows = [drawing for drawing in run.rows if not drawing.done]
            total = len(run.rows) * dalle.image_length
            previews = DallePreviews(self._device, run.vqgan, stepper, run.rows, spec.preview_every)

            def on_step() -> None:
                context.progress("sample", run.known, total)

            def on_turn() -> None:
                context.snapshot(run.known, lambda: run.saved(stepper))
                previews.show(context)

            context.snapshot(run.known, lambda: run.saved(stepper))
            run.draw(shared.batch, rows, context, on_step, on_turn)


def _check_fit(dalle: CodeModel, vqgan: VQGAN, model_id: str) -> None:
    ours, theirs = (dalle.grid, dalle.image_vocab), (vqgan.config.grid, vqgan.config.codes)
    if ours != theirs:
        raise ModelUnavailable(f"{model_id!r} draws (grid, codes) {ours}, but its VQGAN decodes {theirs}")


def build(parts: EngineParts) -> DalleEngine:
    """The engine, as the table of kinds names it."""
    return DalleEngine(parts.library, parts.device, parts.embedder)
