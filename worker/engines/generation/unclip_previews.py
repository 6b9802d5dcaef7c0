"""What a job of unCLIP shows of its unfinished pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from worker.engines.base import RunContext
from worker.engines.generation.unclip_stepper import KIND, Drawn
from worker.engines.images import contact_sheet, to_images
from worker.engines.scheduling.device import Device
from worker.models.dalle.pictures import decode_ids
from worker.models.unclip.sampler import codes_of
from worker.models.unclip.unclip import Unclip
from worker.models.vqgan.vqgan import VQGAN

__all__ = ["UnclipPreviews"]

PREVIEWED = 4  # candidates a preview shows


class UnclipPreviews:
    """The first of the rows that are not finished, and such as are as far, every `every` steps of it; 0 for none."""

    def __init__(self, device: Device, unclip: Unclip, vqgan: VQGAN, rows: Sequence[Drawn], every: int) -> None:
        self._device = device
        self._unclip = unclip
        self._vqgan = vqgan
        self._rows = rows
        self._every = every
        self._led_by: Drawn | None = None  # the first row of the last preview
        self._shown_at = 0  # its step then
        self._waves = -1  # of first rows, before this one

    @property
    def is_due(self) -> bool:
        """Whether the first row has come to a step that is to be shown, and was not yet."""
        return self._due() is not None

    def show(self, context: RunContext) -> None:
        """A preview, if one is due. The rows stand still meanwhile."""
        leader = self._due()
        if leader is None:
            return
        at = leader.state.position
        level = [row for row in self._rows if row.state.position == at and not row.done][:PREVIEWED]
        with self._device.step(KIND):
            estimates = torch.stack([row.state.estimate for row in level])
            shown = decode_ids(self._vqgan, codes_of(self._unclip, self._vqgan, estimates))
        self._waves += leader is not self._led_by
        self._led_by, self._shown_at = leader, at
        context.preview(contact_sheet(to_images(shown)), self._waves * leader.state.settings.steps + at)

    def _due(self) -> Drawn | None:
        leader = next((row for row in self._rows if not row.done), None)
        if leader is None or not self._every or not leader.state.position or leader.state.position % self._every:
            return None
        is_shown = leader is self._led_by and leader.state.position == self._shown_at
        return None if is_shown else leader
