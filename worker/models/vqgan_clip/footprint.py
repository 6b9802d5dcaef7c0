"""How much memory a VQGAN+CLIP step keeps for its way back, known before it is taken.

What autograd keeps is counted on three small sizes and drawn out: convolutions, norms and fused attention keep in
proportion to what they see, plain attention its square.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from worker.models.clip.clip import Clip
from worker.models.vqgan_clip.guidance import add_noise, cut, cut_boxes
from worker.models.vqgan_clip.latent import picture_of
from worker.models.vqgan_clip.state import VqganClipState

SIDES = (4, 8, 12)  # cells, of the latents that are counted
WORKING = 1.25  # peak of a step to what it keeps, measured: deploy/decisions/0008


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of one row."""

    decode: int  # from the latent to the picture
    view: int  # from the picture to one view's vector, of the greediest perceptor

    def of(self, cuts: int, *, decodes_twice: bool = False) -> int:
        """The peak of a pass with so many views at a time."""
        views = self.view * cuts
        return int(WORKING * (max(self.decode, views) if decodes_twice else self.decode + views))


def kept_bytes(run: Callable[[], Tensor]) -> int:
    """What autograd keeps until the way back of `run`, each piece of memory once."""
    pieces: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        pieces[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    count = sum(pieces.values())
    del result
    return count


def footprint_of(like: VqganClipState) -> Footprint:
    """Of a run like this one; a fraction of a step's work. Weights count for nothing: every size has them."""
    device, width = like.first.device, like.first.shape[1]
    cells, factor = like.first.shape[2] * like.first.shape[3], like.vqgan.config.factor
    height, wide = (side * factor for side in like.first.shape[2:])
    settings, keys = like.recipe.cuts, torch.zeros(1, dtype=torch.int64, device=device)
    boxes = cut_boxes(keys, settings, height, wide)

    def decode(side: int) -> Tensor:
        latent = torch.zeros(1, width, side, side, device=device, requires_grad=True)
        return picture_of(like.vqgan, latent, like.recipe.quantize)

    def look(clip: Clip, count: int) -> Tensor:
        picture = torch.zeros(1, 3, height, wide, device=device, requires_grad=True)
        views = cut(picture, boxes[:, :1].expand(1, count, 2, 3).flatten(0, 1), clip.image_size_px, settings.fill)
        return clip.encode_image(add_noise(views, keys, settings))

    with torch.autocast(device.type, like.autocast, enabled=like.autocast is not None):
        decoded = [kept_bytes(partial(decode, side)) for side in SIDES]
        clips = {perceptor.clip for perceptor in like.perceptors}
        views = [kept_bytes(partial(look, clip, 2)) - kept_bytes(partial(look, clip, 1)) for clip in clips]
    return Footprint(_drawn_out(decoded, cells), max(views))


def _drawn_out(counts: list[int], cells: int) -> int:
    """What a square law through the counts (Newton's divided differences) gives for so many cells, less than for none:
    that is the weights."""
    first, second, third = (side**2 for side in SIDES)
    slope = (counts[1] - counts[0]) / (second - first)
    bend = max(0.0, ((counts[2] - counts[1]) / (third - second) - slope) / (third - first))
    return int(slope * cells + bend * cells * (cells - first - second))
