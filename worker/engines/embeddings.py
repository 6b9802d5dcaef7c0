"""Unit vectors of texts and pictures by any CLIP of the library; those of texts are remembered."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from worker.engines.base import Monitor
from worker.engines.device import Device
from worker.engines.library import ModelLibrary
from worker.engines.pixels import check_finite, to_tensor

__all__ = ["Embedder"]

REMEMBERED = 4096  # texts; a few hundred bytes to 4 KB each
IMAGES_PER_STEP = 32
TEXTS_PER_STEP = 256


class Embedder:
    """Thread-safe. `kind` only names who asks, for the device's accounts."""

    def __init__(self, library: ModelLibrary, device: Device, capacity: int = REMEMBERED) -> None:
        self._library = library
        self._device = device
        self._capacity = capacity
        self._lock = threading.Lock()
        self._texts: OrderedDict[tuple[str, str], Tensor] = OrderedDict()

    def texts(self, model_id: str, texts: Sequence[str], kind: str, monitor: Monitor | None = None) -> Tensor:
        """(N, D), unit length. Raises NonFinite."""
        with self._lock:
            missing = [text for text in dict.fromkeys(texts) if (model_id, text) not in self._texts]
            known = {text: self._texts[model_id, text] for text in texts if (model_id, text) in self._texts}
        clip = self._library.clip(model_id)
        for begin in range(0, len(missing), TEXTS_PER_STEP):
            part = missing[begin : begin + TEXTS_PER_STEP]
            with self._device.step(kind), torch.inference_mode():
                rows = clip.encode_text(part)
            check_finite(rows, "a text embedding")
            known.update(zip(part, rows.clone().unbind(), strict=True))
            if monitor:
                monitor.progress("texts", begin + len(part), len(missing))
        self._remember(model_id, known)
        return torch.stack([known[text] for text in texts])

    def _remember(self, model_id: str, rows: dict[str, Tensor]) -> None:
        with self._lock:
            for text, row in rows.items():
                self._texts[model_id, text] = row
                self._texts.move_to_end((model_id, text))
            while len(self._texts) > self._capacity:
                self._texts.popitem(last=False)

    def images(self, model_id: str, images: Sequence[Image.Image], kind: str, monitor: Monitor) -> Tensor:
        """(N, D), unit length; of any sizes. Raises NonFinite, Stopped."""
        clip = self._library.clip(model_id)
        side = clip.image_size_px
        rows = []
        for begin in range(0, len(images), IMAGES_PER_STEP):
            part = images[begin : begin + IMAGES_PER_STEP]
            batch = torch.cat([to_tensor(image, (side, side)) for image in part]).to(self._device.torch_device)
            rows.append(self.tensors(model_id, batch, kind))
            monitor.progress("images", begin + len(part), len(images))
        return torch.cat(rows)

    def tensors(self, model_id: str, pictures: Tensor, kind: str) -> Tensor:
        """(B, D), unit length, of pictures (B, 3, H, W) in [0, 1] that are on the device already. Raises NonFinite."""
        clip = self._library.clip(model_id)
        with self._device.step(kind), torch.inference_mode():
            rows = clip.encode_image(pictures)
        check_finite(rows, "an image embedding")
        return rows
