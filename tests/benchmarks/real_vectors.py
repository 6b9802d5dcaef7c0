"""Vectors for benchmarks of the index: real outputs of a CLIP, never random ones, on which recall would mean nothing.

The 1,652 pictures of deploy/pictures/openmoji.zip, each seen by the shipped emoji-clip (128 numbers) in 20 views: cut
out, turned and tinted at random, by fixed seeds. Views 0 to 15 are for rows, 16 to 19 for queries: no query is a row.
A row of 512 numbers is four different views of one picture one behind the other, normalised: 43,680 ordered choices of
four out of 16 for each picture, so that a million distinct rows come from real outputs. They lie in 1,652 dense
clusters, which partitions follow easily: recall on a million different pictures would be lower (decision 0011 measures
a harder mix).

33,040 passes of the model take some minutes; they are kept in .bench/views.npy, which git ignores.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from worker.engines.images import to_tensor
from worker.engines.library import ModelLibrary

__all__ = ["queries", "rows", "views"]

PICTURES = Path("deploy/pictures/openmoji.zip")
CACHE = Path(".bench/views.npy")
MODEL = "emoji-clip"
ROW_VIEWS = 16
QUERY_VIEWS = 4
PARTS = 4  # views in one row
BATCH = 128

Floats = NDArray[np.float32]


def views() -> Floats:
    """(pictures, 20, 128), unit length."""
    if CACHE.exists():
        return np.load(CACHE)
    torch.set_num_threads(1)
    clip = ModelLibrary(torch.device("cpu")).clip(MODEL)
    side = clip.image_size_px
    with zipfile.ZipFile(PICTURES) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".webp"))
        pictures = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    seen: list[Floats] = []
    with torch.inference_mode():
        for at, picture in enumerate(pictures):
            batch = torch.cat([_view(picture, side, [at, view]) for view in range(ROW_VIEWS + QUERY_VIEWS)])
            found = torch.nn.functional.normalize(clip.encode_image(batch).float(), dim=-1)
            seen.append(found.numpy())
            if at % 200 == 0:
                print(f"seeing pictures: {at} of {len(pictures)}", flush=True)
    CACHE.parent.mkdir(exist_ok=True)
    np.save(CACHE, np.stack(seen))
    return np.stack(seen)


def _view(picture: Image.Image, side: int, seed: list[int]) -> torch.Tensor:
    """(1, 3, side, side): a part of the picture, turned by up to 20 degrees and tinted."""
    rng = np.random.default_rng(seed)
    turned = picture.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, fillcolor="white")
    share = rng.uniform(0.75, 1.0)
    width, height = turned.width * share, turned.height * share
    left, top = rng.uniform(0, turned.width - width), rng.uniform(0, turned.height - height)
    box = (left, top, left + width, top + height)
    part = turned.resize((side, side), Image.Resampling.BICUBIC, box=box)
    tint = torch.tensor(rng.uniform(0.8, 1.2, (1, 3, 1, 1)), dtype=torch.float32)
    return (to_tensor(part) * tint).clamp(0, 1)


def rows(count: int) -> Any:
    """Yields blocks (<= 10,000, 512) of distinct rows, `count` in all, the pictures mixed."""
    seen = views()
    each = -(-count // len(seen))  # rows of one picture, rounded up
    rng = np.random.default_rng(0)
    choices = np.stack([_choices(rng, each) for _ in range(len(seen))])  # (pictures, each, 4)
    order = rng.permutation(len(seen) * each)[:count]
    for start in range(0, count, 10_000):
        picture, which = np.divmod(order[start : start + 10_000], each)
        yield _joined(seen[picture[:, None], choices[picture, which]])


def _choices(rng: np.random.Generator, count: int) -> NDArray[np.intp]:
    """(count, 4): distinct ordered choices of four of the views for rows."""
    found: set[tuple[int, ...]] = set()
    while len(found) < count:
        drawn = rng.random((count, ROW_VIEWS)).argsort(axis=1)[:, :PARTS]
        found.update(map(tuple, drawn.tolist()))
    return np.array(sorted(found), np.intp)[rng.permutation(len(found))[:count]]


def queries(count: int) -> Floats:
    """(count, 512): held-out views of as many pictures, in random order, that no row has."""
    seen = views()
    rng = np.random.default_rng(1)
    picture = rng.choice(len(seen), count, replace=count > len(seen))
    order = ROW_VIEWS + rng.random((count, QUERY_VIEWS)).argsort(axis=1)
    return _joined(seen[picture[:, None], order])


def _joined(parts: Floats) -> Floats:
    """(N, 4, 128) to (N, 512), unit length."""
    flat = parts.reshape(len(parts), -1)
    return (flat / np.linalg.norm(flat, axis=1, keepdims=True)).astype(np.float32)
