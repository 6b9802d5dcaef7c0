"""The evaluation, the model card made of it, and the card that ships."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from tests.models.conftest import TINY_VQGAN
from worker.checkpoints.registry import EMBEDDED, ModelRegistry
from worker.models.clip.clip import Clip
from worker.models.dalle.dalle import Dalle
from worker.models.vqgan.vqgan import VQGAN
from worker.training.commands import train
from worker.training.data.pictures import HELD_OUT, TRAIN, Pictures, Row, write
from worker.training.errors import DataError
from worker.training.evaluation import card, report
from worker.training.evaluation import eval as measures
from worker.training.evaluation.generate import Models
from worker.training.evaluation.measure import FIGURES, clip_figures, judged, share_right
from worker.training.evaluation.plots import draw_curves, labelled, read_curves
from worker.training.evaluation.prompts import KNOWN, NOVEL
from worker.training.evaluation.report import Opened, table

SHIPPED = EMBEDDED.parent
MACHINE = {"device": "this one", "cores": 2, "threads": 1}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of plain colours."""
    rng = np.random.default_rng(0)
    for path, design, count in ((TRAIN, "noto", 24), (HELD_OUT, "openmoji", 12)):
        items = []
        for index in range(count):
            pixels = np.broadcast_to(rng.integers(0, 255, 3, np.uint8), (64, 64, 3))
            file = f"{design}/{index}.webp"
            Image.fromarray(pixels).save(tmp_path / "one.webp", lossless=True)
            name = f"thing {index}"
            row = Row(file, design, f"{index}", name, (), (), 4, design, "1", "MIT", f"{path}{index}")
            items.append((row, (tmp_path / "one.webp").read_bytes()))
        write(tmp_path / path, items)
    return tmp_path


@pytest.fixture
def opened(clip: Clip, dalle: Dalle, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Random models of every kind there is."""
    monkeypatch.setattr(measures, "ITERATIONS", 2)
    monkeypatch.setattr(measures, "CHOSEN_FROM", 2)
    vqgan = VQGAN(replace(TINY_VQGAN, resolution=8, attention_at=())).eval().requires_grad_(False)
    found = {"clip": clip, "vqgan": vqgan, "dalle": dalle, "judge": clip}
    return Opened(found, dict.fromkeys(found, "0"))


def quiet(text: str) -> None:
    """Say nothing."""


def test_every_figure_is_measured_or_has_a_reason(data: Path, opened: Opened) -> None:
    said: list[str] = []
    document = report.report(data, opened, 8, said.append)
    assert {"dalle_judged_top5", "vqgan_clip_judged_top5", "judge_clip_heldout_top5"} <= set(document["figures"])
    assert document["settings"]["names_by_kind"] == {"dalle": 8, "vqgan_clip": 2}
    assert document["not_measured"] == {"unclip_judged_top5": "no emoji-unclip among the models"}
    assert said[0].startswith("estimate: dalle ")
    lines = "\n".join(table(document))
    assert all(name in lines for name, figure in FIGURES.items() if figure.unit != "s")
    assert re.search(r"unclip_judged_top5 .* NOT MEASURED: no emoji-unclip", lines)
    assert document["figures"] == report.report(data, opened, 8, quiet)["figures"]
    assert report.report(data, opened, 40, quiet)["settings"]["names_by_kind"] == {"dalle": 24, "vqgan_clip": 10}


def test_without_a_judge_nothing_is_drawn_and_it_says_so(data: Path, opened: Opened) -> None:
    found = {name: model for name, model in opened.found.items() if name != "judge"}
    document = report.report(data, Opened(found, {}), 8, quiet)
    assert document["not_measured"]["dalle_judged_top5"] == "no emoji-judge among the models"
    assert document["not_measured"]["unclip_judged_top5"] == "no emoji-unclip and no emoji-judge among the models"
    assert report.report(data, opened, 0, quiet)["not_measured"]["dalle_judged_top5"] == "--names 0"


def test_the_judge_is_asked_about_the_first_picture(data: Path, opened: Opened) -> None:
    held_out, clip = Pictures.held_out(data), opened.models.clip
    names = [row.name for row in held_out.rows]

    def right_first(models: Models, asked: Sequence[str]) -> Tensor:
        true = torch.stack([held_out.images[names.index(name)] for name in asked]).float() / 255.0
        return torch.stack([true, torch.zeros_like(true)], 1)

    generator = measures.Generator("dalle", "dalle", 1, 2, right_first)
    drawings = measures.draw_all(opened.models, [generator], [names[:5]], quiet)
    assert torch.cat(drawings[0].parts).shape == (5, 2, 3, 64, 64)
    figures = measures.measure_drawings(drawings, opened.models, clip, held_out)
    wanted = judged(clip, held_out.images[:5].float() / 255.0, range(5), names, 5)
    assert figures["dalle_judged_top5"] == pytest.approx(wanted)


def test_a_shared_name_is_found_by_any_of_its_pictures(clip: Clip) -> None:
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.1, 0.2], [0.0, 0.5, 0.4]])
    right = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 1, 0]]).bool()
    assert share_right(scores, right, 1) == pytest.approx(100 / 3)
    assert share_right(scores, right, 2) == pytest.approx(100.0)
    assert share_right(scores, right, 9) == 100.0
    images = torch.randint(0, 255, (4, 3, 16, 16), dtype=torch.uint8)
    one = Row("a", "mine", "1", "sun", (), (), -1, "p", "1", "MIT", "0")
    assert clip_figures(clip, Pictures(images, [one] * 4)) == dict.fromkeys(list(FIGURES)[:3], 100.0)


def test_a_copy_shows_as_its_own_neighbour(data: Path) -> None:
    training = Pictures.training(data)
    places, distances = card.nearest(training.images[3:5].float() / 255.0, training)
    assert places[:, 0].tolist() == [3, 4]
    assert float(distances[:, 0].max()) < 0.1
    black, white = torch.zeros(1, 3, 64, 64), torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    assert float(card.nearest(black, Pictures(white, training.rows[:1]))[1]) == pytest.approx(255.0, abs=0.1)


def test_the_card_is_drawn_and_written(
    data: Path, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, run = tmp_path / "card", tmp_path / "run"
    out.mkdir()
    run.mkdir()
    rows = [{"step": i, "seconds": 60.0 * i, "loss": 3.0 - i, "clip_heldout_top5": 10.0 * i} for i in range(3)]
    (run / "curves.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bench = [{"name": "dalle_16_keep_4_s", "value": value, "unit": "s"} for value in (9.0, 3.0)]
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bench))
    marks = [card.marks_of(what) for what in (card.FIGURES_MARK, card.PICTURES_MARK)]
    (out / "MODEL_CARD.md").write_text("".join(f"before\n{begin}\nold\n{end}\n" for begin, end in marks) + "after\n")
    report.write_document(out / "figures.json", report.report(data, opened, 0, quiet))
    monkeypatch.setattr(report, "open_models", lambda *_: opened)
    arguments = ["card", "--data", data, "--out", out, "--runs", run, "--share", "0.05"]
    result = CliRunner().invoke(train, [str(part) for part in [*arguments, "--bench", tmp_path / "bench.jsonl"]])
    assert result.exit_code == 0, result.output
    kinds = [f"{kind}-{form}.webp" for kind in ("dalle", "vqgan_clip") for form in card.SHEETS]
    assert sorted(path.name for path in (out / "pictures").iterdir()) == sorted(
        [*kinds, "reconstructions.webp", "curves.png"]
    )
    text = (out / "MODEL_CARD.md").read_text()
    assert (text.count("before\n"), text.count("\nold\n"), text.count("\nafter\n")) == (2, 0, 1)
    assert "](pictures/curves.png)" in text
    assert "| `dalle_16_keep_4_s` | 3.0 s | <= 4 s |" in text
    assert "| `dalle_judged_top5` | not measured: --names 0 | >= 70 % |" in text


def test_figures_of_other_weights_are_refused(opened: Opened) -> None:
    card.check_weights({"weights": dict(opened.digests)}, opened)
    with pytest.raises(DataError, match="other weights of dalle"):
        card.check_weights({"weights": {**opened.digests, "dalle": "1"}}, opened)


def test_curves_without_a_run_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path)):
        read_curves([tmp_path])
    (tmp_path / "curves.jsonl").write_text('{"step": 0, "seconds": 1.0, "loss": 2.0, "scale": 3.0}\n')
    panels = read_curves([tmp_path])
    assert [panel.lines for panel in panels] == [{"loss": [(1 / 60, 2.0)]}]
    assert draw_curves(panels).size[0] > 100


def test_the_sheets_number_their_prompts() -> None:
    assert len(set(KNOWN)) == 48
    assert not set(KNOWN) & set(NOVEL)
    assert labelled(["a", "b"], True, False) == ["1", "2"]
    assert labelled(["a", "b"], True, True) == ["1 a", "2 b"]
    assert labelled(["a", "b"], False, True) == ["a", "b"]


def shipped() -> dict[str, Any]:
    return card.read_document(SHIPPED / "figures.json")


def test_the_shipped_card_states_the_figures_that_were_measured() -> None:
    assert card.figures_block(shipped()) in (SHIPPED / "MODEL_CARD.md").read_text()


def test_the_shipped_figures_are_of_the_shipped_weights() -> None:
    entries = ModelRegistry.load().entries.values()
    assert shipped()["weights"] == {entry.id.removeprefix("emoji-"): entry.sha256[entry.weights] for entry in entries}


def test_the_cards_pictures_are_there_and_small() -> None:
    text = (SHIPPED / "MODEL_CARD.md").read_text()
    assert card.pictures_block(SHIPPED / "pictures") in text
    files = {f"pictures/{path.name}" for path in (SHIPPED / "pictures").iterdir()}
    assert files == set(re.findall(r"\]\((pictures/[\w.-]+)\)", text))
    assert sum((SHIPPED / name).stat().st_size for name in files) < 1_500_000
