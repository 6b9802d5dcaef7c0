"""The engines that need torch, built around one device, one library and one embedder."""

from __future__ import annotations

from worker.engines.base import Engine
from worker.engines.embedding.embedder import Embedder
from worker.engines.generation.dalle import DalleEngine
from worker.engines.generation.unclip import UnclipEngine
from worker.engines.generation.vqgan_clip import VqganClipEngine
from worker.engines.library import ModelLibrary
from worker.engines.options import EngineOptions
from worker.engines.scheduling.device import Device
from worker.engines.search.collections import CollectionEngine
from worker.engines.search.rank_classify import ClipEngine
from worker.engines.search.search import SearchEngine

__all__ = ["build_torch_engines"]


def build_torch_engines(options: EngineOptions) -> list[Engine]:
    """One engine per file. Raises ModelUnavailable where the device or the registry is not there."""
    device = Device(
        options.device, options.cpu_threads, options.on_step, options.device_lock,
        memory_bytes=options.memory_bytes, is_deterministic=options.is_deterministic, events=options.events,
    )  # fmt: skip
    library = ModelLibrary(device.torch_device, options.weights_dir, options.on_load)
    embedder = Embedder(library, device)
    return [
        DalleEngine(library, device, embedder),
        VqganClipEngine(library, device, embedder),
        UnclipEngine(library, device, embedder),
        ClipEngine(library, device, embedder),
        SearchEngine(library, device, embedder, options.search_events),
        CollectionEngine(library, device, embedder, options.search_events),
    ]
