"""Unit vectors of texts and pictures by any CLIP of the library; those of texts are remembered."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from worker.engines.base import RunContext
from worker.engines.embedding.stepper import Embedded, EmbeddingStepper
from worker.engines.images import to_tensor
from worker.engines.library import ModelLibrary
from worker.engines.scheduling.batch import Batch
from worker.engines.scheduling.batch_cache import BatchCache
from worker.engines.scheduling.device import Device

__all__ = ["IMAGES_PER_STEP", "Embedder"]

REMEMBERED = 4096  # texts; a few hundred bytes to 4 KB each
IMAGES_PER_STEP = 32
TEXTS_PER_STEP = 256
AHEAD = 4 * IMAGES_PER_STEP  # pictures made ready for the device while those before them are looked at
LINGER_S = 0.002  # how long an idle device waits for more to come; a pass takes several times as long
THREADS = min(8, os.cpu_count() or 1)  # that scale pictures: Pillow works without the interpreter's lock

T = TypeVar("T", Tensor, str)


class Embedder:
    """Thread-safe. What several jobs ask for at the same time goes through the model together."""

    def __init__(self, library: ModelLibrary, device: Device, capacity: int = REMEMBERED) -> None:
        self._library = library
        self._device = device
        self._capacity = capacity
        self._lock = threading.Lock()
        self._texts: OrderedDict[tuple[str, str], Tensor] = OrderedDict()
        self._readers = BatchCache[Embedded[str], EmbeddingStepper[str]](device, "text", LINGER_S)
        self._viewers = BatchCache[Embedded[Tensor], EmbeddingStepper[Tensor]](device, "image", LINGER_S)
        self._scaling = ThreadPoolExecutor(THREADS, thread_name_prefix="scale")

    def texts(self, model_id: str, texts: Sequence[str], context: RunContext | None = None) -> Tensor:
        """(N, D), unit length. Raises NonFinite, Stopped."""
        with self._lock:
            missing = [text for text in dict.fromkeys(texts) if (model_id, text) not in self._texts]
            known = {text: self._texts[model_id, text] for text in texts if (model_id, text) in self._texts}
        self._device.events.on_cache("texts", len(known), len(missing))
        if missing:
            rows = [Embedded(text, "a text embedding") for text in missing]
            known.update(zip(missing, _run(self._reader(model_id), rows, "texts", context).unbind(), strict=True))
        self._remember(model_id, known)
        return torch.stack([known[text] for text in texts])

    def _remember(self, model_id: str, rows: dict[str, Tensor]) -> None:
        with self._lock:
            for text, row in rows.items():
                self._texts[model_id, text] = row
                self._texts.move_to_end((model_id, text))
            while len(self._texts) > self._capacity:
                self._texts.popitem(last=False)

    def images(self, model_id: str, images: Sequence[Image.Image], context: RunContext) -> Tensor:
        """(N, D), unit length; of any sizes. Raises NonFinite, Stopped."""
        side = self.side_px(model_id)

        def scaled(begin: int) -> list[Future[Tensor]]:
            part = images[begin : begin + AHEAD]
            return [self._scaling.submit(to_tensor, image, (side, side)) for image in part]

        vectors, coming = [], scaled(0)
        for begin in range(0, len(images), AHEAD):
            part, coming = coming, scaled(begin + AHEAD)
            pictures = torch.cat([future.result() for future in part]).to(self._device.torch_device)
            vectors.append(self.tensors(model_id, pictures, context, begin, len(images)))
        return torch.cat(vectors)

    def side_px(self, model_id: str) -> int:
        """Of the square that the model sees a picture as."""
        return self._library.clip(model_id).image_size_px

    def tensors(
        self, model_id: str, pictures: Tensor, context: RunContext | None = None, begun: int = 0, total: int = 0
    ) -> Tensor:
        """(B, D), unit length, of pictures (B, 3, H, W) in [0, 1] that are on the device already: number `begun` and
        following of `total`. Without a context nothing stops it. Raises NonFinite, Stopped."""
        rows = [Embedded(picture, "an image embedding") for picture in pictures]
        return _run(self._viewer(model_id, pictures.shape[1:]), rows, "images", context, begun, total)

    def _reader(self, model_id: str) -> Batch[Embedded[str]]:
        clip = self._library.clip(model_id)
        return self._readers.get(
            model_id, lambda: EmbeddingStepper(clip.encode_text, self._slots(TEXTS_PER_STEP))
        ).batch

    def _viewer(self, model_id: str, shape: torch.Size) -> Batch[Embedded[Tensor]]:
        """By size too: pictures of one pass are stacked."""
        clip = self._library.clip(model_id)

        def encode(pictures: Sequence[Tensor]) -> Tensor:
            return clip.encode_image(torch.stack(list(pictures)))

        return self._viewers.get(
            (model_id, shape), lambda: EmbeddingStepper(encode, self._slots(IMAGES_PER_STEP))
        ).batch

    def _slots(self, at_most: int) -> int:
        """Rows of one pass; where it is to be deterministic, every row is alone in its own."""
        return 1 if self._device.is_deterministic else at_most


def _run(
    batch: Batch[Embedded[T]],
    rows: list[Embedded[T]],
    stage: str,
    context: RunContext | None,
    begun: int = 0,
    total: int = 0,
) -> Tensor:
    """Vectors (N, D) of rows, in their order."""

    def on_step() -> None:
        if context:
            context.progress(stage, begun + sum(row.done for row in rows), total or len(rows))

    with batch.joined(rows, on_step) as turns:
        for _ in turns:
            pass
    return torch.stack([row.vector for row in rows if row.vector is not None])
