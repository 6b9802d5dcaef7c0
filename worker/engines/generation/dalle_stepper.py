"""DALL-E's pictures of all jobs in one batch: one code more of each with every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from shared.errors import NonFinite
from worker.engines.generation.candidates import Candidate
from worker.engines.scheduling.device import Device
from worker.models.dalle.code_model import CodeModel
from worker.models.dalle.rows import DalleRow
from worker.models.dalle.sampler import DalleSampler

__all__ = ["KIND", "Drawing", "TokenStepper"]

KIND = "dalle"


@dataclass(eq=False)
class Drawing:
    """One picture of a job, while its codes are sampled."""

    candidate: Candidate
    prompt: str
    row: DalleRow

    @property
    def done(self) -> bool:
        """See Row."""
        return self.row.done

    @property
    def error(self) -> NonFinite | None:
        """See Row."""
        if self.row.is_finite:
            return None
        return NonFinite(
            f"the model made NaN or infinity at code {self.row.known}, in candidate {self.candidate.index} of "
            f"{self.prompt!r}"
        )


class TokenStepper:
    """See worker.engines.scheduling.stepper.Stepper. A slot is two sequences of the cache: a caption's, and the empty
    one's."""

    def __init__(self, model: CodeModel, device: Device) -> None:
        with torch.inference_mode():
            self.row_bytes = 2 * model.new_cache(1).bytes_per_sequence
        self._device = device
        self._sampler = DalleSampler(model, 0, is_deterministic=device.is_deterministic)
        self._max_rows: int | None = None  # since the device was full
        self._reported = (0, 0)  # graphs replayed and recorded

    @property
    def slots(self) -> int:
        """See Stepper. Counted anew whenever the batch is empty: other models may have come since."""
        if not self._sampler.rows:
            slots = self._device.slots(self.row_bytes, self._sampler.cache_bytes)
            self._sampler.resize(2 * (slots if self._max_rows is None else min(slots, self._max_rows)))
        return self._sampler.sequences // 2

    def admit(self, rows: Sequence[Drawing]) -> None:
        """See Stepper."""
        sampler, events = self._sampler, self._device.events
        hits, misses = sampler.captions.hits, sampler.captions.misses
        sampler.admit([row.row for row in rows])
        events.on_cache("captions", sampler.captions.hits - hits, sampler.captions.misses - misses)
        events.on_memory(KIND, self.row_bytes * len(sampler.rows), self._device.peak_bytes())

    def leave(self, rows: Sequence[Drawing]) -> None:
        """See Stepper."""
        self._sampler.leave([row.row for row in rows])

    def step(self) -> None:
        """See Stepper."""
        self._sampler.step()
        graphs = self._sampler.graphs
        if graphs is not None:
            before, self._reported = self._reported, (graphs.replays, graphs.recordings)
            self._device.events.on_cache("graphs", self._reported[0] - before[0], self._reported[1] - before[1])

    def shrink(self) -> bool:
        """See Stepper. Rows that no longer fit wait with the codes they have."""
        slots = self._sampler.sequences // 2
        if slots <= 1:
            return False
        self._max_rows = slots // 2
        self._sampler.resize(2 * self._max_rows)
        return True

    def empty(self) -> None:
        """See Stepper."""
        self._sampler.clear()
        self._reported = (0, 0)

    def sync(self) -> None:
        """Bring the codes that are there to the rows; in a turn on the device."""
        self._sampler.sync()
