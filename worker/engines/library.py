"""The models of one worker: each loaded once, shared by every engine that asks for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from shared.errors import ModelUnavailable
from worker.checkpoints.loading import Model as Loaded
from worker.checkpoints.loading import load_model, load_tokenizer
from worker.checkpoints.registry import EMBEDDED, ModelEntry, ModelRegistry
from worker.engines.base import Model
from worker.models.clip.clip import Clip
from worker.models.dalle.code_model import CodeModel
from worker.models.dalle.dalle import Dalle
from worker.models.dalle.dalle_bart import DalleBart
from worker.models.dense import pack
from worker.models.errors import ModelError
from worker.models.text import CaptionTokenizer
from worker.models.unclip.unclip import Unclip
from worker.models.vqgan.vqgan import VQGAN

__all__ = ["ModelLibrary"]

M = TypeVar("M", VQGAN, Unclip, Clip)


class ModelLibrary:
    """Raises ModelUnavailable where a model is unknown, of another family, or cannot be read."""

    def __init__(
        self,
        device: torch.device,
        weights_dir: str = "",
        on_load: Callable[[str, float], None] = lambda _model, _seconds: None,
    ) -> None:
        self._device = device
        self._registry = ModelRegistry.load(Path(weights_dir) / "registry.json" if weights_dir else EMBEDDED)
        self._on_load = on_load
        self._lock = threading.Lock()
        self._loaded: dict[str, Loaded] = {}
        self._tokenizers: dict[str, CaptionTokenizer] = {}

    def entries(self, family: str) -> list[ModelEntry]:
        """Those of one family, the default first."""
        return [entry for entry in self._registry.of_family(family) if entry.is_served]

    def entry(self, model_id: str, family: str) -> ModelEntry:
        """What the registry says of a model."""
        entry = self._registry.get(model_id)
        if not entry.is_served:
            raise ModelUnavailable(f"{model_id!r} only judges what other models draw; no job may use it")
        if entry.family != family:
            raise ModelUnavailable(f"{model_id!r} is a {entry.family} model; this needs a {family} model")
        return entry

    def companions(self, model_id: str, family: str) -> tuple[str, str, str]:
        """The model itself, the VQGAN it draws codes for, and the CLIP that scores its pictures."""
        entry = self.entry(model_id, family)
        if entry.vqgan is None or entry.clip is None:
            raise ModelUnavailable(f"the registry names no VQGAN or no CLIP for {model_id!r}")
        return entry.id, entry.vqgan, entry.clip

    def load_family(self, family: str) -> list[str]:
        """Load all of one family; their ids."""
        load = {"vqgan": self.vqgan, "dalle": self.dalle, "clip": self.clip}[family]
        ids = [entry.id for entry in self.entries(family)]
        for model_id in ids:
            load(model_id)
        return ids

    def vqgan(self, model_id: str) -> VQGAN:
        """The VQGAN of that id."""
        return self._get(model_id, "vqgan", VQGAN)

    def dalle(self, model_id: str) -> CodeModel:
        """The transformer of that id, of either form."""
        model = self._find(model_id, "dalle")
        if not isinstance(model, Dalle | DalleBart):
            raise ModelUnavailable(f"{model_id!r} was loaded as a {type(model).__name__}")
        return model

    def unclip(self, model_id: str) -> Unclip:
        """The prior and decoder of that id."""
        return self._get(model_id, "unclip", Unclip)

    def clip(self, model_id: str) -> Clip:
        """The CLIP of that id."""
        return self._get(model_id, "clip", Clip)

    def tokenizer(self, model_id: str) -> CaptionTokenizer:
        """The caption tokenizer of a dalle model."""
        with self._lock:
            if model_id not in self._tokenizers:
                self._tokenizers[model_id] = load_tokenizer(self.entry(model_id, "dalle"))
            return self._tokenizers[model_id]

    def _get(self, model_id: str, family: str, kind: type[M]) -> M:
        model = self._find(model_id, family)
        if not isinstance(model, kind):
            raise ModelUnavailable(f"{model_id!r} was loaded as a {type(model).__name__}")
        return model

    def _find(self, model_id: str, family: str) -> Loaded:
        entry = self.entry(model_id, family)
        with self._lock:
            if model_id not in self._loaded:
                started_at = time.monotonic()
                self._loaded[model_id] = _loaded(entry, self._device)
                self._on_load(model_id, time.monotonic() - started_at)
            return self._loaded[model_id]

    def describe(self, *model_ids: str) -> list[Model]:
        """As results name them, with the digest of their weights; each once."""
        entries = [self._registry.get(model_id) for model_id in dict.fromkeys(model_ids)]
        return [Model(entry.id, entry.family, entry.sha256[entry.weights]) for entry in entries]


def dtype_on(device: torch.device, family: str) -> torch.dtype:
    """What a model computes in. DALL-E's transformers are bound by reading weights, keys and values: on a GPU they are
    halves, as dalle-mini's are published. The others keep full weights, and cast where autocast says."""
    return torch.float16 if device.type == "cuda" and family == "dalle" else torch.float32


def _loaded(entry: ModelEntry, device: torch.device) -> Loaded:
    """Channels last: a vqgan_clip step takes 47 instead of 74 ms on two cores, to the same picture."""
    try:
        model: Loaded = load_model(entry, device, dtype_on(device, entry.family))
        model = model.to(memory_format=torch.channels_last)
    except (ModelError, OSError) as error:
        raise ModelUnavailable(f"model {entry.id} cannot be loaded: {error}") from error
    pack(model)
    return model
