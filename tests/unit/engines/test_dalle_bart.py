"""The encoder-decoder form through the same engine and batch as ours, with a VQGAN that came without an encoder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from shared.errors import InvalidInput
from shared.specs.kinds import parse_spec
from tests.models.conftest import SMALL_VQGAN
from tests.support.tiny_models import write_tiny_models
from tests.unit.engines.test_torch_engines import Recorder
from worker.checkpoints.loading import CONFIG, WEIGHTS, save_model
from worker.checkpoints.registry import digest
from worker.engines.base import Engine, Output, Task
from worker.engines.options import EngineOptions
from worker.engines.registry import build_engines
from worker.models.dalle.dalle_bart import DalleBart, DalleBartConfig
from worker.models.vqgan.vqgan import VQGAN

CONFIG_OF_MODEL = DalleBartConfig(
    text_vocab=300, text_length=20, image_vocab=32, code_rows=33, grid=4, width=32, hidden=40, heads=2,
    encoder_layers=1, decoder_layers=2, start_code=32, guidance=4.0,
)  # fmt: skip
WORDS = "words.json"
REF = "img_" + "0" * 64


def write_words(path: Path) -> None:
    """Bytes only, under BART's names for start, padding and end."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {word: number for number, word in enumerate(["<s>", "<pad>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.save(str(path))


def add_model(folder: Path, model_id: str, model: DalleBart | VQGAN, **more: str) -> None:
    """Save it beside the others, and name it in their registry."""
    save_model(model, folder / model_id, torch.float32)
    sha256 = {name: digest(folder / model_id / name) for name in (CONFIG, WEIGHTS)}
    if "tokenizer" in more:
        sha256[more["tokenizer"]] = digest(folder / more["tokenizer"])
    row = {
        "id": model_id, "folder": model_id, "config": CONFIG, "weights": WEIGHTS, "sha256": sha256,
        "dtype": "float32", "params": 1, "source": "tests", "licence": "Apache-2.0", "pool": "default",
    }  # fmt: skip
    registry = json.loads((folder / "registry.json").read_text())
    registry["models"].append(row | more)
    (folder / "registry.json").write_text(json.dumps(registry))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = write_tiny_models(tmp_path_factory.mktemp("weights"))
    write_words(folder / WORDS)
    add_model(folder, "flat-vqgan", VQGAN(replace(SMALL_VQGAN, encodes=False)), family="vqgan")
    add_model(
        folder,
        "bart",
        DalleBart(CONFIG_OF_MODEL),
        family="dalle",
        tokenizer=WORDS,
        vqgan="flat-vqgan",
        clip="emoji-clip",
    )
    built = build_engines(("dalle",), EngineOptions(device="cpu", cpu_threads=1, weights_dir=str(folder)))
    built["dalle"].load()
    return built["dalle"]


def run(engine: Engine, recorder: Recorder | None = None, **spec: object) -> Output:
    task = Task(parse_spec("dalle", {"model": "bart", **spec}), {})
    return engine.run(task, recorder or Recorder())


def test_it_draws_and_says_with_what(engine: Engine) -> None:
    output = run(engine, prompts=["a tree", "a very long caption, cut"], n=2, seed=0)
    assert len(output.pictures) == 4
    assert len({picture.image.tobytes() for picture in output.pictures}) == 4
    assert output.parameters["guidance"] == 4.0
    assert [model.id for model in output.models] == ["bart", "flat-vqgan", "emoji-clip"]


def test_a_picture_does_not_depend_on_what_is_co_batched(engine: Engine) -> None:
    many = {p.index: p.image.tobytes() for p in run(engine, prompts=["a tree"], n=7, seed=0).pictures}
    for count in (1, 2):
        few = {p.index: p.image.tobytes() for p in run(engine, prompts=["a tree"], n=count, seed=0).pictures}
        assert few == {index: many[index] for index in range(count)}


def test_a_preview_shows_the_rest_as_blank(engine: Engine) -> None:
    recorder = Recorder()
    run(engine, recorder, prompts=["a tree"], n=2, seed=0, preview_every=8)
    assert [step for _, step in recorder.previews]


def test_a_picture_cannot_be_gone_on_from_without_an_encoder(engine: Engine) -> None:
    spec = parse_spec("dalle", {"model": "bart", "prompts": ["a tree"], "image_prefix": {"image": REF, "rows": 1}})
    with pytest.raises(InvalidInput, match="encoder"):
        engine.run(Task(spec, {REF: Image.new("RGB", (20, 14), "red")}), Recorder())
