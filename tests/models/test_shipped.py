"""The embedded weights load, fit each other, and stay within their size. Their quality is measured by `train eval`."""

from __future__ import annotations

import pytest
import torch

from shared.errors import ModelUnavailable
from worker.checkpoints.loading import load_model
from worker.checkpoints.registry import EMBEDDED, ModelRegistry
from worker.engines.library import ModelLibrary
from worker.models.dalle.dalle import Dalle
from worker.models.vqgan.vqgan import VQGAN

LIMIT_BYTES = 40_000_000


def test_the_embedded_models_load_and_fit_each_other() -> None:
    registry = ModelRegistry.load()
    models = {name: load_model(entry) for name, entry in registry.entries.items()}
    dalle, vqgan = models["emoji-dalle"], models[registry.get("emoji-dalle").vqgan or ""]
    assert isinstance(dalle, Dalle)
    assert isinstance(vqgan, VQGAN)
    assert dalle.config.image_vocab == vqgan.config.codes
    assert dalle.config.grid == vqgan.config.grid


def test_no_job_may_use_the_judge() -> None:
    """It must not have seen what it judges being made."""
    library = ModelLibrary(torch.device("cpu"))
    assert [entry.id for entry in library.entries("clip")] == ["emoji-clip"]
    with pytest.raises(ModelUnavailable, match="only judges"):
        library.clip("emoji-judge")


def test_the_embedded_files_stay_small() -> None:
    assert sum(path.stat().st_size for path in EMBEDDED.parent.rglob("*") if path.is_file()) <= LIMIT_BYTES
