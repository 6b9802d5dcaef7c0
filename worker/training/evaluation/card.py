"""What `train card` makes of the models: the model card's pictures, and its table of figures.

Everything is drawn with the seeds and settings of the evaluation, failures included; nothing is chosen by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.models.vqgan.vqgan import psnr
from worker.training.data.pictures import Pictures
from worker.training.errors import DataError
from worker.training.evaluation.eval import GENERATORS, Generator, Say
from worker.training.evaluation.generate import Models
from worker.training.evaluation.measure import FIGURES
from worker.training.evaluation.plots import contact_sheet, draw_curves, labelled, read_curves, save_small
from worker.training.evaluation.prompts import FEW_KNOWN, FEW_NOVEL, KNOWN, NOVEL
from worker.training.evaluation.report import Opened

FIGURES_MARK, PICTURES_MARK = "figures", "pictures"  # what `train card` writes of the card, not people
SHEETS = {
    "numbered": "Fixed prompts, failures included (DALL-E, unCLIP: the best of 16 by CLIP): name them first",
    "named": "The same with their prompts",
    "new": "Prompts nobody trained on",
    "nearest": "Each beside its nearest training pictures and their distances, of 255: copies would show",
}
PAIRS = 24  # reconstructions shown
NEIGHBOURS = 3  # training pictures beside a sample
SAMPLES = 16  # with neighbours


@dataclass(frozen=True, slots=True)
class Prompts:
    """What a generator draws for its sheets."""

    known: Sequence[str]
    novel: Sequence[str]

    @classmethod
    def of(cls, generator: Generator, share: float) -> Prompts:
        """The fixed lists, shorter for what draws slowly; `share` below 1 takes the first part of them."""
        lists = (KNOWN, NOVEL) if generator.fraction == 1 else (FEW_KNOWN, FEW_NOVEL)
        return cls(*(part[: max(1, round(len(part) * share))] for part in lists))


def draw_card(
    opened: Opened, data: Path, out: Path, share: float, say: Say, only: Sequence[str] = ()
) -> dict[str, float]:
    """The sheets of the models at hand, of `only` these kinds if any is named, into `out`.

    Returns how near pictures are to the nearest training picture: held-out ones, and those of each kind drawn.
    """
    models = opened.models
    held_out, training = Pictures.held_out(data), Pictures.training(data)
    save_small(reconstructions(models, held_out), out / "reconstructions.webp")
    spread = held_out.images[torch.linspace(0, len(held_out.images) - 1, 200).long()].float() / 255.0
    near = {"heldout": _median(nearest(spread, training)[1])}
    for generator in GENERATORS:
        if not share or opened.found.get(generator.model) is None or (only and generator.kind not in only):
            continue
        prompts = Prompts.of(generator, share)
        say(f"{generator.kind}: {len(prompts.known)} known prompts and {len(prompts.novel)} new ones")
        known, novel = (_best(generator, models, part) for part in (prompts.known, prompts.novel))
        for images, names, numbers, words, name in (
            (known, prompts.known, True, False, "numbered"),
            (known, prompts.known, True, True, "named"),
            (novel, prompts.novel, False, True, "new"),
        ):
            page = contact_sheet(images, labelled(names, numbers, words), columns=8 if len(names) > 16 else 4)
            save_small(page, out / f"{generator.kind}-{name}.webp")
        near[generator.kind] = _median(nearest(known, training)[1])
        sheet = neighbours(known[:SAMPLES], prompts.known[:SAMPLES], training)
        save_small(sheet, out / f"{generator.kind}-nearest.webp")
    return near


def _best(generator: Generator, models: Models, prompts: Sequence[str]) -> Tensor:
    """The first picture (P, 3, H, W) of each prompt."""
    step = generator.at_once
    parts = [generator.draw(models, prompts[begin : begin + step])[:, 0] for begin in range(0, len(prompts), step)]
    return torch.cat(parts).cpu()


def draw_run_curves(runs: Sequence[Path], out: Path) -> None:
    """The curves of training runs in `out`."""
    save_small(draw_curves(read_curves(runs)), out / "curves.png")


@torch.inference_mode()
def reconstructions(models: Models, held_out: Pictures) -> Any:
    """Held-out pictures, spread over the set, each beside what the VQGAN makes of it."""
    weight = models.vqgan.quantize.embedding.weight
    picks = torch.linspace(0, len(held_out.rows) - 1, min(PAIRS, len(held_out.rows))).long()
    images = held_out.images[picks].to(weight.device).to(weight.dtype) / 127.5 - 1.0
    decoded, _ = models.vqgan(images)
    pairs = torch.stack([images, decoded], 1).flatten(0, 1).float().add(1).div(2).clamp(0, 1)
    values = psnr(images, decoded).tolist()
    names = [held_out.rows[pick].name for pick in picks]
    labels = [text for pair in zip(names, [f"{value:.1f} dB" for value in values], strict=True) for text in pair]
    return contact_sheet(pairs, labels, columns=8)


def nearest(images: Tensor, training: Pictures) -> tuple[Tensor, Tensor]:
    """Places (N, k) of the nearest training pictures, and their distances (N, k), of pictures (N, 3, 64, 64) in [0, 1].

    The distance is the root mean square over colours of 32x32 averages, in 255ths: a shift by a pixel stays near.
    """
    own = F.adaptive_avg_pool2d(images, 32).flatten(1)
    parts = []
    for part in training.images.split(1024):
        parts.append(torch.cdist(own, F.adaptive_avg_pool2d(part.float() / 255.0, 32).flatten(1)))
    distances = torch.cat(parts, 1) * 255.0 / own.shape[1] ** 0.5
    found = distances.topk(min(NEIGHBOURS, distances.shape[1]), dim=1, largest=False)
    return found.indices, found.values


def _median(distances: Tensor) -> float:
    """Of the nearest ones."""
    return round(float(distances[:, 0].median()), 2)


def neighbours(images: Tensor, names: Sequence[str], training: Pictures) -> Any:
    """Samples, each beside its nearest training pictures with their distances: copies show."""
    places, distances = nearest(images, training)
    tiles, labels = [], []
    for index, name in enumerate(names):
        tiles.append(images[index])
        labels.append(f"{name}\ndrawn")
        for place, distance in zip(places[index].tolist(), distances[index].tolist(), strict=True):
            row = training.rows[place]
            near = training.images[place].float() / 255.0
            tiles.append(F.adaptive_avg_pool2d(near, (images.shape[-2], images.shape[-1])))
            labels.append(f"{row.name}\n{distance:.0f} {row.design}")
    return contact_sheet(torch.stack(tiles), labels, columns=2 * (1 + places.shape[1]), scale=1)


def timings(bench: Path) -> dict[str, float]:
    """The last seconds per job that `make bench ONLY=models` wrote to `bench`."""
    rows = [json.loads(line) for line in bench.read_text(encoding="utf-8").splitlines()] if bench.is_file() else []
    last = {row["name"]: row["value"] for row in rows if row["name"] in FIGURES and row["unit"] == "s"}
    return {name: value for name, value in last.items() if value is not None}


def read_document(path: Path) -> dict[str, Any]:
    """What `train eval --json` wrote."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(document["figures"], dict)
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise DataError(f"no figures at {path} (dreamqueue train eval --json {path}): {error!r}") from error
    return dict(document)


def check_weights(document: Mapping[str, Any], opened: Opened) -> None:
    """DataError if the figures were taken of other weights than those at hand."""
    stale = [name for name, digest in opened.digests.items() if document["weights"].get(name) != digest]
    if stale:
        raise DataError(f"figures.json is of other weights of {', '.join(stale)}: run train eval --json again")


def figures_block(document: Mapping[str, Any]) -> str:
    """The card's table, between its marks."""
    where, settings = document["machine"], document["settings"]
    drawn = ", ".join(f"{count} names by {kind}" for kind, count in settings["names_by_kind"].items()) or "none drawn"
    rows = [
        f"Taken on {document['date']} on {where['device']}, {where['threads']} of {where['cores']} cores, seed"
        f" {document['seed']}; {drawn}; `figures.json` holds all of it.",
        "",
        "| figure | reached | wanted |",
        "|---|---|---|",
    ]
    rows += [f"| `{name}` | {_reached(name, document)} | {figure.target} |" for name, figure in FIGURES.items()]
    others = {name: value for name, value in document["figures"].items() if name not in FIGURES}
    rows += [f"| `{name}` | {value:.1f} % | |" for name, value in others.items()]
    near = document.get("nearest", {})
    rows += [f"| nearest training picture, {kind} (median) | {value:.1f} of 255 | |" for kind, value in near.items()]
    return _marked(FIGURES_MARK, rows)


def pictures_block(folder: Path) -> str:
    """The card's pictures, those that are in `folder`, between their marks."""
    titles = {"reconstructions.webp": "Held-out pictures, each beside what the VQGAN makes of it"}
    for kind in dict.fromkeys(generator.kind for generator in GENERATORS):
        titles |= {f"{kind}-{name}.webp": f"`{kind}`. {text}" for name, text in SHEETS.items()}
    titles["curves.png"] = "Training"
    rows = []
    for name, title in titles.items():
        if (folder / name).is_file():
            rows += [f"{title}:", "", f"![{title}]({folder.name}/{name})", ""]
    return _marked(PICTURES_MARK, rows)


def _marked(what: str, rows: Sequence[str]) -> str:
    begin, end = marks_of(what)
    return "\n".join([begin, *rows, end])


def marks_of(what: str) -> tuple[str, str]:
    """The lines between which a part of the card is written."""
    return f"<!-- {what}: written by `dreamqueue train card`, not by hand -->", f"<!-- end of {what} -->"


def _reached(name: str, document: Mapping[str, Any]) -> str:
    figure, value = FIGURES[name], document["figures"].get(name)
    if value is None:
        return "not measured: " + document["not_measured"].get(name, "see `make bench ONLY=models`")
    met = "" if figure.is_met(value) else ", missed"
    return f"{value:.1f} {figure.unit}{met}"


def write_card(card: Path, document: Mapping[str, Any]) -> None:
    """Put the table of `document` and the pictures beside the card in place of those that are there."""
    text = card.read_text(encoding="utf-8")
    blocks = {FIGURES_MARK: figures_block(document), PICTURES_MARK: pictures_block(card.parent / "pictures")}
    for what, block in blocks.items():
        begin, end = marks_of(what)
        old = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.S)
        if not old.search(text):
            raise DataError(f"{card} has no marks for its {what}: {begin} ... {end}")
        text = old.sub(block.replace("\\", r"\\"), text)
    card.write_text(text, encoding="utf-8")
