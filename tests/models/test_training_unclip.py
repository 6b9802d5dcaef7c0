"""The recipe on tiny models: it learns what it is shown, and goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.models.conftest import TINY_UNCLIP, tiny_tokenizer
from tests.models.test_training_data import row
from worker.checkpoints.loading import load_model, open_folder, save_model
from worker.checkpoints.registry import ModelRegistry
from worker.models.clip.clip import Clip
from worker.models.unclip.diffusion import clean_of, mixed_with
from worker.models.unclip.unclip import Unclip
from worker.models.vqgan.vqgan import VQGAN
from worker.training.data.pictures import Pictures
from worker.training.evaluation.generate import Models, draw_unclip
from worker.training.export import export_models
from worker.training.loop import CURVES, Budget, Plan
from worker.training.recipes.unclip import UnclipRecipe, UnclipTrainer, latent_error, train_unclip
from worker.training.recipes.vectors import Frozen, caption_rows

RECIPE = UnclipRecipe(
    config=TINY_UNCLIP, batch=8, prior_batch=8, versions=2, captions=3, recoloured=0.0, rate=1e-2, average=0.9
)


@pytest.fixture
def frozen(clip: Clip, small_vqgan: VQGAN) -> Frozen:
    return Frozen(clip, small_vqgan)


@pytest.fixture
def pictures() -> Pictures:
    generator = torch.Generator().manual_seed(3)
    return Pictures(torch.randint(0, 256, (4, 3, 8, 8), generator=generator, dtype=torch.uint8), [row("noto")] * 4)


def test_both_losses_fall(frozen: Frozen, pictures: Pictures) -> None:
    trainer = UnclipTrainer(RECIPE, pictures, frozen, torch.device("cpu"))
    losses = torch.tensor([[float(part) for part in trainer.step(1e-2)] for _ in range(150)])
    first, last = losses[:10].mean(0), losses[-10:].mean(0)
    assert bool((last < 0.7 * first).all()), f"losses (decoder, prior) went from {first} to {last}"


def test_sizes_and_spreads_are_the_frozen_models(frozen: Frozen, pictures: Pictures) -> None:
    trainer = UnclipTrainer(RECIPE, pictures, frozen, torch.device("cpu"))
    config = trainer.unclip.config
    assert (config.embedding, config.channels, config.grid) == (8, 4, 4)
    whitened = trainer.unclip.whiten_latent(trainer.latent(trainer.bank.codes[:, 0]))
    torch.testing.assert_close(whitened.mean((0, 2, 3)), torch.zeros(4), atol=2e-2, rtol=0)
    torch.testing.assert_close(whitened.std((0, 2, 3)), torch.ones(4), atol=2e-2, rtol=0)


def test_equal_captions_are_read_once(clip: Clip) -> None:
    vectors, places = caption_rows(clip, [["a tree", "a heart"], ["a heart", "a heart"]])
    assert vectors.shape == (2, 8)
    assert places.tolist() == [[0, 1], [1, 1]]


def test_a_run_is_saved_and_goes_on(
    tmp_path: Path, frozen: Frozen, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pictures, "training", classmethod(lambda _cls, _folder: pictures))
    monkeypatch.setattr(Pictures, "held_out", classmethod(lambda _cls, _folder: pictures))

    def train(steps: int, resume: bool) -> Unclip:
        plan = Plan(tmp_path, tmp_path / "out", Budget(steps=steps), torch.device("cpu"), resume)
        return train_unclip(plan, frozen, RECIPE)

    train(3, resume=False)
    model = train(6, resume=True)
    lines = (tmp_path / "out" / CURVES).read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ['{"step": 0', '{"step": 3', '{"step": 6']
    assert all("heldout_prior_cosine" in line and "heldout_decoder_loss" in line for line in lines[1:])
    saved = open_folder("unclip", tmp_path / "out")
    torch.testing.assert_close(saved.decoder.null, model.decoder.null, atol=1e-3, rtol=1e-2)


def test_the_decoders_loss_is_the_latents_error() -> None:
    noise, clean, time = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3), torch.tensor([0.1, 0.4, 0.7, 1.0])
    said = torch.randn(4, 2, 3, 3)
    drawn = clean_of(mixed_with(noise, clean, time), said, time)
    torch.testing.assert_close(latent_error(said, noise, clean, time), 2 * (drawn - clean).square().mean())


def test_drawn_pictures_come_best_first_and_again(frozen: Frozen, unclip: Unclip) -> None:
    models = Models(frozen.clip, frozen.vqgan, None, frozen.clip.tokenizer, unclip)
    drawn = draw_unclip(models, ["a tree", "a heart", "a cup"], 3, rows=6)  # two prompts, then one
    assert drawn.shape == (3, 3, 3, 8, 8)
    scores = torch.stack(
        [
            frozen.clip.encode_image(row) @ frozen.clip.encode_text([name])[0]
            for row, name in zip(drawn, ("a tree", "a heart", "a cup"), strict=True)
        ]
    )
    assert bool((scores.diff(dim=1) <= 1e-6).all())
    torch.testing.assert_close(draw_unclip(models, ["a heart"], 3)[0], drawn[1], atol=1e-4, rtol=0)


def test_an_exported_model_names_its_companions(tmp_path: Path, frozen: Frozen, unclip: Unclip) -> None:
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    for name, model in (("clip", frozen.clip), ("vqgan", frozen.vqgan), ("unclip", unclip)):
        save_model(model, tmp_path / "trained" / name)
    export_models(tmp_path / "trained", tmp_path / "tokenizer.json", tmp_path / "out")
    registry = ModelRegistry.load(tmp_path / "out" / "registry.json")
    entry = registry.get("emoji-unclip")
    assert (entry.family, entry.vqgan, entry.clip, entry.tokenizer) == ("unclip", "emoji-vqgan", "emoji-clip", None)
    assert registry.of_family("unclip") == [entry]
    assert isinstance(load_model(entry), Unclip)
