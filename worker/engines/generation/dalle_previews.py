"""What a job of DALL-E shows of its unfinished pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.engines.base import RunContext
from worker.engines.generation.dalle_stepper import KIND, Drawing, TokenStepper
from worker.engines.images import contact_sheet, to_images
from worker.engines.scheduling.device import Device
from worker.models.dalle.pictures import blank_ids, decode_ids, preview_ids
from worker.models.vqgan.vqgan import VQGAN

__all__ = ["DallePreviews"]

PREVIEWED = 4  # candidates a preview shows


class DallePreviews:
    """A few candidates whenever they have `every` codes more; when they are finished, the next few. 0 for none."""

    def __init__(
        self, device: Device, vqgan: VQGAN, stepper: TokenStepper, drawings: Sequence[Drawing], every: int
    ) -> None:
        self._device = device
        self._vqgan = vqgan
        self._stepper = stepper
        self._drawings = drawings
        self._every = every
        self._shown: list[Drawing] = []
        self._waves = 0  # of candidates, before these
        self._shown_at = 0  # codes per picture of the last preview
        self._blank: Tensor | None = None
        if every:
            with device.step(KIND):
                self._blank = blank_ids(vqgan).cpu()
            self._next_wave()

    def show(self, context: RunContext) -> None:
        """What has come since the last time."""
        if self._blank is None:
            return
        length, known = len(self._shown[0].row.tokens) if self._shown else 0, self._least_known()
        for place in range(self._shown_at + self._every, min(known, length - 1) + 1, self._every):
            self._show(place, self._blank, context)
        if known == length or not self._shown:
            self._waves += bool(self._shown)
            self._next_wave()

    def _least_known(self) -> int:
        return min((drawing.row.known for drawing in self._shown), default=0)

    def _next_wave(self) -> None:
        self._shown = [drawing for drawing in self._drawings if not drawing.done][:PREVIEWED]
        self._shown_at = self._least_known() // self._every * self._every

    def _show(self, place: int, blank: Tensor, context: RunContext) -> None:
        """The first `place` codes of those that are shown."""
        self._shown_at = place
        with self._device.step(KIND), torch.inference_mode():
            self._stepper.sync()
            ids = torch.stack([preview_ids(drawing.row.tokens[:place], blank) for drawing in self._shown])
            pictures = decode_ids(self._vqgan, ids.to(self._device.torch_device))
        length = len(self._shown[0].row.tokens)
        context.preview(contact_sheet(to_images(pictures)), self._waves * length + place)
