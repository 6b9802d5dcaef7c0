"""A set of one's own: a table, a folder or shards become the zip files that training reads, and training takes them."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from worker.training.commands import train
from worker.training.data.captions import write_captions
from worker.training.data.imports import Imported, ImportPlan, Origin, decode, import_set, is_set_aside
from worker.training.data.pictures import HELD_OUT, TRAIN, Pictures, Row, read_manifest
from worker.training.errors import DataError, HeldOutLeak, TrainingError
from worker.training.recipes.dalle import recoloured

WORDS = ("Red  Apple", "blue heart", "a green tree by the river", "sun", "moon", "fish", "cup", "key")
MINE = Origin("mine", "https://example.org/mine", "CC0-1.0", "3")


def picture(index: int, size: tuple[int, int] = (40, 20), form: str = "PNG") -> bytes:
    """A file of one colour per index."""
    buffer = io.BytesIO()
    colour = (index * 29 % 256, index * 53 % 256, index * 97 % 256)
    Image.new("RGB", size, colour).save(buffer, form)
    return buffer.getvalue()


def as_folder(path: Path, count: int = 40) -> Path:
    path.mkdir()
    for index in range(count):
        (path / f"{index:03}.png").write_bytes(picture(index))
        (path / f"{index:03}.txt").write_text(WORDS[index % len(WORDS)] + "\nanother name\n")
    return path


def as_table(path: Path, count: int = 40) -> Path:
    as_folder(path, count)
    rows = "".join(f"{i:03}.png,{WORDS[i % len(WORDS)]},red; round\n" for i in range(count))
    (path / "set.csv").write_text("image,caption,keywords\n" + rows)
    return path / "set.csv"


def as_shards(path: Path, count: int = 40) -> Path:
    path.mkdir()
    for shard in range(2):
        with tarfile.open(path / f"{shard}.tar", "w") as file:
            for index in range(shard * count // 2, (shard + 1) * count // 2):
                caption = WORDS[index % len(WORDS)]
                words = ("txt", caption.encode()) if shard else ("json", json.dumps({"caption": caption}).encode())
                for ending, data in (("webp", picture(index, form="WEBP")), words, ("cls", b"7")):
                    info = tarfile.TarInfo(f"part/{index:05}.{ending}")
                    info.size = len(data)
                    file.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("form", [as_folder, as_table, as_shards])
def test_every_form_becomes_the_zip_files(tmp_path: Path, form: Callable[[Path], Path]) -> None:
    done = import_set(ImportPlan(form(tmp_path / "set"), MINE, share=0.3), tmp_path)
    training, held_out = Pictures.training(tmp_path), Pictures.held_out(tmp_path)
    assert done == Imported(len(training.rows), len(held_out.rows))
    assert done.training + done.held_out == 40
    assert 4 <= done.held_out <= 20
    first = next(row for row in training.rows if row.name == "red apple")
    assert (first.design, first.package, first.licence, first.version) == ("mine", MINE.source, "CC0-1.0", "3")
    assert first.keywords == (("red", "round") if form is as_table else ())
    assert first.aliases == (("another name",) if form is as_folder else ())
    assert len({row.code for row in training.rows}) == len({row.name for row in training.rows})


def test_pictures_keep_their_shape_on_white(tmp_path: Path) -> None:
    pixels = decode(picture(5, (80, 40)), 10_000)
    assert (pixels[:16] == 255).all()
    assert (pixels[48:] == 255).all()
    assert (pixels[16:48] == pixels[32, 32]).all()
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(buffer, "PNG")
    assert (decode(buffer.getvalue(), 10_000) == 255).all()
    turned = Image.new("RGB", (80, 40), "black").getexif()
    turned[0x0112] = 6  # a quarter turn
    buffer = io.BytesIO()
    Image.new("RGB", (80, 40), "black").save(buffer, "JPEG", exif=turned)
    assert (decode(buffer.getvalue(), 10_000)[:, :15] == 255).all()


def test_the_side_of_a_name_is_fixed() -> None:
    names = [f"picture {index}" for index in range(4_000)]
    aside = {name for name in names if is_set_aside(name, 0.1)}
    assert 300 < len(aside) < 500
    assert aside <= {name for name in names if is_set_aside(name, 0.2)}
    assert {"picture 8", "picture 14"} <= aside  # would change if the hash ever did


def test_held_out_pictures_may_be_given(tmp_path: Path) -> None:
    mine, theirs = as_folder(tmp_path / "set"), as_folder(tmp_path / "theirs", 10)
    done = import_set(ImportPlan(mine, MINE, held_out=theirs), tmp_path)
    assert (done.training, done.held_out, done.again) == (30, 10, 10)  # what is held out is not trained on
    Pictures.training(tmp_path)


def test_one_picture_twice_is_one_with_both_names(tmp_path: Path) -> None:
    folder = as_folder(tmp_path / "set")
    (folder / "twin.png").write_bytes(picture(0))
    (folder / "twin.txt").write_text("crimson fruit")
    assert import_set(ImportPlan(folder, MINE, share=0.3), tmp_path).again == 1
    rows = [*read_manifest(tmp_path / TRAIN), *read_manifest(tmp_path / HELD_OUT)]
    assert ("another name", "crimson fruit") in [row.aliases for row in rows]


def test_a_held_out_picture_in_training_stops_it(tmp_path: Path) -> None:
    import_set(ImportPlan(as_folder(tmp_path / "set"), MINE, share=0.3), tmp_path)
    with zipfile.ZipFile(tmp_path / HELD_OUT) as held_out, zipfile.ZipFile(tmp_path / TRAIN, "w") as leaky:
        for name in held_out.namelist():
            leaky.writestr(name, held_out.read(name))
    with pytest.raises(HeldOutLeak, match=HELD_OUT):
        Pictures.training(tmp_path)


def test_the_held_out_design_cannot_be_imported(tmp_path: Path) -> None:
    folder = as_folder(tmp_path / "set")
    for origin in (Origin("openmoji", "x", "MIT"), Origin("mine", "@iconify-json/openmoji", "MIT")):
        with pytest.raises(HeldOutLeak):
            import_set(ImportPlan(folder, origin), tmp_path)


def bad_picture(folder: Path) -> str:
    (folder / "007.png").write_bytes(b"no picture")
    return r"set/007.png: no picture in any of PNG"


def cut_picture(folder: Path) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(buffer, "PNG")
    (folder / "007.png").write_bytes(buffer.getvalue()[:6_000])
    return r"set/007.png: cannot decode"


def bomb(folder: Path) -> str:
    (folder / "007.png").write_bytes(picture(7, (9000, 9000)))
    return r"set/007.png: 9000 x 9000 pixels, at most 50,000,000"


def no_sidecar(folder: Path) -> str:
    (folder / "007.txt").unlink()
    return r"set/007.png: cannot read its caption 007.txt"


def empty_caption(folder: Path) -> str:
    (folder / "007.txt").write_text("  \n")
    return r"set/007.png: the caption is empty"


def long_caption(folder: Path) -> str:
    (folder / "007.txt").write_text("word " * 300)
    return r"set/007.png: the caption has 1499 characters"


@pytest.mark.parametrize("spoil", [bad_picture, cut_picture, bomb, no_sidecar, empty_caption, long_caption])
def test_bad_input_is_named_or_left_out(tmp_path: Path, spoil: Callable[[Path], str]) -> None:
    folder = as_folder(tmp_path / "set")
    message = spoil(folder)
    with pytest.raises(DataError, match=message):
        import_set(ImportPlan(folder, MINE, share=0.3), tmp_path)
    assert not list(tmp_path.glob("*.zip*"))
    done = import_set(ImportPlan(folder, MINE, share=0.3, skip_bad=True), tmp_path)
    assert done.training + done.held_out == 39
    assert len(done.faults) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,caption\na.png,x\n", "has no column image; there are: file, caption"),
        ("image,caption\n000.png,x\n../none.png,y\n", r"set.csv line 3: cannot read the picture"),
        ("image,caption\n000.png\n", r"set.csv line 2: the caption is empty"),
        ("image,caption\n", "no training picture"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    table = as_table(tmp_path / "set")
    table.write_text(text)
    with pytest.raises(DataError, match=message):
        import_set(ImportPlan(table, MINE, share=0.0), tmp_path)


def test_a_bad_shard_is_named(tmp_path: Path) -> None:
    folder = as_shards(tmp_path / "set")
    with tarfile.open(folder / "2.tar", "w") as file:
        info = tarfile.TarInfo("part/lonely.png")
        info.size = len(picture(1))
        file.addfile(info, io.BytesIO(picture(1)))
    with pytest.raises(DataError, match=r"2.tar sample part/lonely: no .txt and no .json"):
        import_set(ImportPlan(folder, MINE), tmp_path)
    (folder / "2.tar").write_bytes((folder / "1.tar").read_bytes()[:5_000])
    with pytest.raises(DataError, match=r"2.tar"):
        import_set(ImportPlan(folder, MINE), tmp_path)


def test_what_is_there_is_not_overwritten_by_another_set(tmp_path: Path) -> None:
    plan = ImportPlan(as_folder(tmp_path / "set"), MINE, share=0.3)
    import_set(plan, tmp_path)
    import_set(plan, tmp_path)  # the same set again is an update
    with pytest.raises(DataError, match="already holds the set mine"):
        import_set(ImportPlan(plan.path, Origin("other", "x", "MIT")), tmp_path)


@pytest.mark.parametrize("origin", [Origin("mine", "", "MIT"), Origin("mine", "x", ""), Origin("My set!", "x", "MIT")])
def test_where_a_set_is_from_must_be_said(tmp_path: Path, origin: Origin) -> None:
    with pytest.raises(TrainingError):
        import_set(ImportPlan(as_folder(tmp_path / "set"), origin), tmp_path)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(train, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_models_train_on_an_imported_set(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "models"
    own = ("--name", "mine", "--source", "me", "--licence", "CC0-1.0", "--held-out-share", 0.3)
    assert "held out" in run("data", "--from", as_table(tmp_path / "set"), "--data", data, *own)
    few = ("--data", data, "--steps", 2, "--batch", 4, "--device", "cpu")
    run("clip", *few, "--out", out / "clip", "--set", "embed_dim=16", "--set", "text_width=32", "--set", "robust=0")
    run("vqgan", *few, "--out", out / "vqgan", "--set", "plain_steps=1")
    dalle = ("--set", "versions=1", "--set", "captions=2")
    run("dalle", *few, "--out", out / "dalle", "--vqgan", out / "vqgan", *dalle)
    for name in ("clip", "vqgan", "dalle"):
        last = json.loads((out / name / "curves.jsonl").read_text().splitlines()[-1])
        assert any("heldout" in key and np.isfinite(value) for key, value in last.items())


def test_a_set_without_one_coloured_pictures_has_none_to_recolour() -> None:
    noise = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    red = torch.zeros(1, 3, 64, 64)
    red[:, 0] = 1.0
    rows = [Row("a", "mine", str(i), "thing", (), (), -1, "p", "1", "MIT", "0") for i in range(4)]
    assert recoloured(noise, rows[:3], 2, 0)[1] == []
    turned, captions = recoloured(torch.cat([noise, red]), rows, 2, 0)
    assert turned.shape == (1, 3, 64, 64)
    assert len(captions) == 1
    assert recoloured(red, [replace(rows[0], name="a dress on a chair")], 2, 0)[1] == []


def test_a_stage_that_cannot_go_on_says_so_in_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(train, ["clip", "--data", str(tmp_path), "--out", str(tmp_path / "x"), "--steps", "1"])
    assert result.exit_code != 0
    assert "Traceback" not in result.output


def test_sentences_are_not_put_into_forms(tmp_path: Path) -> None:
    import_set(ImportPlan(as_folder(tmp_path / "set"), MINE, share=0.3), tmp_path)
    row = next(row for row in read_manifest(tmp_path / TRAIN) if row.name.startswith("a green"))
    captions = write_captions(row, 50, np.random.default_rng(0), None, False)
    assert not any("a a " in caption or "of a green tree by" in caption for caption in captions)
