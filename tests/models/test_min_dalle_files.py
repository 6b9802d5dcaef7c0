"""min-dalle's files to ours: every name and shape is looked at, and what comes out draws what the source would."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor

from shared.errors import ModelUnavailable
from tests.models.test_dalle_bart import LONG, TINY, assert_close, begin, caption, plain, run
from tests.support.plain_dalle_bart import random_weights
from worker.checkpoints.bart_tokenizer import bart_tokenizer
from worker.checkpoints.commands import weights as command
from worker.checkpoints.detoker import F16_16384, convert_vqgan, detoker_manifest
from worker.checkpoints.errors import BadRegistry, KeyMismatch
from worker.checkpoints.loading import open_folder, save_model
from worker.checkpoints.min_dalle import convert
from worker.checkpoints.registry import digest
from worker.engines.library import ModelLibrary
from worker.models.dalle.dalle_bart import DalleBart, DalleBartConfig
from worker.models.errors import ConfigError
from worker.models.text import CaptionTokenizer
from worker.models.vqgan.vqgan import VQGAN, VQGANConfig

WIDE = DalleBartConfig(
    text_vocab=400, text_length=16, image_vocab=30, code_rows=33, grid=2, width=8, hidden=11, heads=2,
    encoder_layers=1, decoder_layers=1, start_code=30,
)  # fmt: skip


def write_source(folder: Path, config: DalleBartConfig = TINY, dtype: torch.dtype = torch.float32) -> Path:
    folder.mkdir(exist_ok=True)
    for name, weights in zip(("encoder", "decoder"), random_weights(config), strict=True):
        torch.save({key: value.to(dtype) for key, value in weights.items()}, folder / f"{name}.pt")
    return folder


def write_words(folder: Path) -> None:
    """vocab.json and merges.txt of a tokenizer that knows BART's own tokens and learnt a few words."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["a red apple", "a blue heart"] * 5, trainer)
    tokenizer.model.save(str(folder))


def test_converted_weights_draw_what_the_source_would(tmp_path: Path) -> None:
    count = convert(write_source(tmp_path / "source"), tmp_path / "ours", TINY)
    model = open_folder("dalle", tmp_path / "ours")
    assert isinstance(model, DalleBart)
    assert model.config == TINY
    assert count == sum(parameter.numel() for parameter in model.parameters())
    codes = torch.randint(0, 30, (1, 25))
    assert_close(run(model, begin(model, [LONG], [0]), codes)[0], plain(LONG, codes[0, :-1]), "converted")


def test_halves_stay_halves(tmp_path: Path) -> None:
    convert(write_source(tmp_path / "source", dtype=torch.float16), tmp_path / "ours", TINY)
    assert (tmp_path / "ours" / "model.safetensors").stat().st_size < 2.2 * sum(
        value.numel() for weights in random_weights(TINY) for value in weights.values()
    )


@pytest.mark.parametrize("name", ["encoder", "decoder"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda table: table.pop("final_ln.bias"), "final_ln.bias"),
        (lambda table: table.update({"final_ln.weight": torch.ones(24)}), "final_ln.weight"),
        (lambda table: table.update({"layers.9.glu.ln0.bias": torch.ones(24)}), "layers.9"),
        (lambda table: table.update({"embed_tokens.weight": torch.ones(39, 24)}), "39, 24"),
        (lambda table: table["final_ln.bias"].fill_(float("nan")), "no numbers"),
        (lambda table: table.update({"final_ln.bias": torch.ones(24, dtype=torch.int64)}), "no numbers"),
    ],
)
def test_files_of_another_model_are_refused(
    tmp_path: Path, name: str, change: Callable[[dict[str, Tensor]], Any], told: str
) -> None:
    source = write_source(tmp_path / "source")
    table = torch.load(source / f"{name}.pt", weights_only=True)
    change(table)
    torch.save(table, source / f"{name}.pt")
    with pytest.raises(KeyMismatch, match=told):
        convert(source, tmp_path / "ours", TINY)
    assert not (tmp_path / "ours").exists()


class Evil:
    """A pickle that would write a file when it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def test_what_is_no_table_of_weights_is_refused(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    for wrong in ([1, 2], {"embed_tokens.weight": 1}, Evil(str(tmp_path / "written"))):
        torch.save(wrong, source / "encoder.pt")
        with pytest.raises(BadRegistry, match=r"encoder\.pt"):
            convert(source, tmp_path / "ours", TINY)
    assert not (tmp_path / "written").exists()
    whole = (source / "decoder.pt").read_bytes()
    write_source(source)
    (source / "decoder.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadRegistry, match=r"decoder\.pt"):
        convert(source, tmp_path / "ours", TINY)
    (source / "decoder.pt").unlink()
    with pytest.raises(BadRegistry, match=r"decoder\.pt"):
        convert(source, tmp_path / "ours", TINY)


def test_captions_are_framed_and_what_is_cut_is_told(tmp_path: Path) -> None:
    write_words(tmp_path)
    tokenizer = CaptionTokenizer(bart_tokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt", WIDE))
    rows = tokenizer.encode(["A red Äpple", "", "a red apple " * 30], 16, framed=False)
    assert rows.ids.shape == (3, 16)
    assert rows.truncated == [False, False, True]
    assert torch.equal(rows.ids[0], tokenizer.encode([" a red apple"], 16, framed=True).ids[0])
    assert rows.ids[1].tolist() == [0, 2] + [1] * 14
    assert (int(rows.ids[2, 0]), int(rows.ids[2, -1])) == (0, 2)  # min-dalle loses the end of a caption that is cut
    assert 2 in rows.ids[0].tolist()
    assert tokenizer.tokenizer.decode(rows.ids[0].tolist(), skip_special_tokens=False).count("red apple") == 1


def test_own_tokens_in_a_caption_are_words(tmp_path: Path) -> None:
    write_words(tmp_path)
    tokenizer = CaptionTokenizer(bart_tokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt", WIDE))
    ids = tokenizer.encode(["</s> <pad>"], 16, framed=False).ids[0].tolist()
    assert ids.count(2) == 1
    assert ids.index(1) == ids.index(2) + 1


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    write_words(tmp_path)
    with pytest.raises(KeyMismatch, match="277 tokens"):
        bart_tokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt", TINY)
    vocab = json.loads((tmp_path / "vocab.json").read_text())
    vocab["<s>"], vocab["</s>"] = vocab["</s>"], vocab["<s>"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(KeyMismatch, match="</s>"):
        bart_tokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt", WIDE)
    with pytest.raises(BadRegistry):
        bart_tokenizer(tmp_path / "nothing.json", tmp_path / "merges.txt", WIDE)


def test_the_command_writes_a_model_that_a_worker_hands_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.models.dalle.dalle_bart.PRESETS", {"mini": WIDE})
    source = write_source(tmp_path / "source", WIDE, torch.float16)
    write_words(source)
    target = tmp_path / "dalle-mini"
    result = CliRunner().invoke(command, ["min-dalle", str(source), str(target), "--size", "mini"])
    assert result.exit_code == 0, result.output
    entry = json.loads(result.stdout)
    (tmp_path / "registry.json").write_text(json.dumps({"models": [entry]}))
    library = ModelLibrary(torch.device("cpu"), str(tmp_path))
    model = library.dalle("dalle-mini")
    ids = library.tokenizer("dalle-mini").encode(["a red apple"], model.text_length, framed=False).ids
    cache = model.new_cache(1)
    model.place(cache, torch.tensor([0]), model.prefill(ids), torch.tensor([0]))
    assert model.step(torch.tensor([0]), torch.tensor([0]), cache, 1).isfinite().all()
    assert entry["sha256"]["model.safetensors"] == digest(target / "model.safetensors")
    with pytest.raises(ModelUnavailable):
        library.vqgan("dalle-mini")


def test_the_command_says_what_is_wrong_in_a_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["min-dalle", str(tmp_path), str(tmp_path / "ours"), "--size", "mega"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: cannot read the tokenizer")


SMALL = VQGANConfig(
    channels=8,
    multipliers=(1, 2),
    decoder_blocks=2,
    attention_at=(2,),
    resolution=4,
    z_channels=8,
    code_width=6,
    codes=30,
    groups=4,
    encodes=False,
)


def write_detoker(folder: Path) -> VQGAN:
    """The file, and the model that its weights make when nothing is rescaled."""
    folder.mkdir(exist_ok=True)
    model = VQGAN(SMALL).eval()
    table = {name.removeprefix("quantize."): value for name, value in model.state_dict().items()}
    torch.save(table, folder / "detoker.pt")
    return model


@torch.no_grad()
def test_a_detoker_draws_the_source_s_pictures_in_our_range(tmp_path: Path) -> None:
    source = write_detoker(tmp_path / "source")
    convert_vqgan(tmp_path / "source", tmp_path / "ours", SMALL)
    ours = open_folder("vqgan", tmp_path / "ours")
    assert isinstance(ours, VQGAN)
    codes = torch.randint(0, 30, (2, 2, 2))
    theirs = source.decode_indices(codes)
    gap = float((ours.decode_indices(codes).add(1).div(2) - theirs).abs().max())
    assert gap < 1e-5, f"pictures in [0, 1] differ by {gap}"
    with pytest.raises(ConfigError, match="encoder"):
        ours.encode(theirs)


def test_a_detoker_with_another_table_is_refused(tmp_path: Path) -> None:
    write_detoker(tmp_path)
    table = torch.load(tmp_path / "detoker.pt", weights_only=True)
    torch.save(table | {"quant_conv.weight": torch.ones(1)}, tmp_path / "detoker.pt")
    with pytest.raises(KeyMismatch, match="quant_conv"):
        convert_vqgan(tmp_path, tmp_path / "ours", SMALL)


def test_the_detoker_s_names_are_the_published_ones() -> None:
    """Counted in min-dalle 0.4.11's VQGanDetokenizer."""
    names = detoker_manifest(F16_16384)
    assert len(names) == 197
    assert sum(math.prod(shape) for shape in names.values()) == 46_709_891
    assert names["embedding.weight"] == (16384, 256)


def test_packed_weights_cannot_be_saved_by_mistake(tmp_path: Path) -> None:
    convert(write_source(tmp_path / "source"), tmp_path / "ours", TINY)
    model = open_folder("dalle", tmp_path / "ours")
    assert isinstance(model, DalleBart)
    model.pack()
    if model.head.packed is not None:
        with pytest.raises(NotImplementedError):
            save_model(model, tmp_path / "again")
    assert caption([0, 2])[2] == TINY.text_pad
