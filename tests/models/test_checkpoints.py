"""Saving, the registry, and what a damaged or foreign file meets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.conftest import tiny_tokenizer
from worker.checkpoints.errors import BadRegistry, DigestMismatch, KeyMismatch, UnknownModel
from worker.checkpoints.loading import CONFIG, WEIGHTS, load_model, load_weights, open_folder, save_model
from worker.checkpoints.registry import ModelRegistry, digest
from worker.models.clip.clip import Clip
from worker.models.dalle.dalle import Dalle
from worker.models.vqgan.vqgan import VQGAN


def write_registry(folder: Path, model: VQGAN) -> Path:
    save_model(model, folder / "tiny", torch.float32)
    files = {name: digest(folder / "tiny" / name) for name in (CONFIG, WEIGHTS)}
    entry = {
        "id": "tiny", "family": "vqgan", "folder": "tiny", "config": CONFIG, "weights": WEIGHTS, "sha256": files,
        "dtype": "float32", "params": 1, "source": "test", "licence": "MIT", "pool": "default",
    }  # fmt: skip
    path = folder / "registry.json"
    path.write_text(json.dumps({"models": [entry]}))
    return path


def test_a_model_comes_back_as_it_was(tmp_path: Path, vqgan: VQGAN) -> None:
    registry = ModelRegistry.load(write_registry(tmp_path, vqgan))
    loaded = load_model(registry.get("tiny"))
    assert not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), vqgan.parameters(), strict=True))


def test_every_family_opens_from_its_folder(tmp_path: Path, dalle: Dalle, clip: Clip) -> None:
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    save_model(dalle, tmp_path / "dalle", torch.float32)
    save_model(clip, tmp_path / "clip", torch.float32)
    assert isinstance(open_folder("dalle", tmp_path / "dalle"), Dalle)
    again = open_folder("clip", tmp_path / "clip", tmp_path / "tokenizer.json")
    assert isinstance(again, Clip)
    torch.testing.assert_close(again.encode_text(["a tree"]), clip.encode_text(["a tree"]))


def test_a_changed_file_is_refused(tmp_path: Path, vqgan: VQGAN) -> None:
    registry = ModelRegistry.load(write_registry(tmp_path, vqgan))
    with (tmp_path / "tiny" / WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(DigestMismatch):
        load_model(registry.get("tiny"))


def test_foreign_names_are_refused(tmp_path: Path, vqgan: VQGAN) -> None:
    write_registry(tmp_path, vqgan)
    tensors = load_file(tmp_path / "tiny" / WEIGHTS)
    tensors["extra"] = torch.zeros(1)
    save_file(tensors, tmp_path / "foreign.safetensors")
    with pytest.raises(KeyMismatch, match="extra"):
        load_weights(vqgan, tmp_path / "foreign.safetensors")


def test_unknown_models_and_broken_registries_have_names(tmp_path: Path, vqgan: VQGAN) -> None:
    with pytest.raises(UnknownModel, match="tiny"):
        ModelRegistry.load(write_registry(tmp_path, vqgan)).get("huge")
    with pytest.raises(BadRegistry):
        ModelRegistry.load(tmp_path / "nothing.json")
    (tmp_path / "odd.json").write_text(json.dumps({"models": [{"id": "x", "colour": "red"}]}))
    with pytest.raises(BadRegistry, match="colour"):
        ModelRegistry.load(tmp_path / "odd.json")


def test_clip_says_what_it_cut(clip: Clip) -> None:
    rows = clip.encode_rows(["a tree", "a very long caption " * 20])
    assert rows.truncated == [False, True]
    assert rows.embeddings.shape == (2, 8)


def test_clip_is_differentiable_at_any_size(clip: Clip) -> None:
    images = torch.rand(2, 3, 40, 24, requires_grad=True)
    vectors = clip.encode_image(images)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    vectors[:, 0].sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0
