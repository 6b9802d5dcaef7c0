"""The data set: fetched as npm packages, rendered from SVG, written as two zip files and a manifest.

`train.zip` holds the training designs, `heldout.zip` the held-out one: each `manifest.jsonl` plus one lossless WebP per
picture. `Pictures.training` refuses any file in which the held-out design, or any held-out picture, appears. Sets of
one's own come into the same form by `imports`.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from worker.training.data import emoji
from worker.training.errors import DataError, HeldOutLeak

SIDE = 64  # pixels; the embedded models' only size
TRAIN, HELD_OUT = "train.zip", "heldout.zip"


@dataclass(frozen=True, slots=True)
class Row:
    """One picture of the manifest."""

    file: str
    design: str
    code: str
    name: str
    aliases: tuple[str, ...]
    keywords: tuple[str, ...]
    group: int
    package: str
    version: str
    licence: str
    sha256: str  # of the rendered RGB bytes


@dataclass(frozen=True, slots=True)
class Pictures:
    """A data set in memory."""

    images: Tensor  # (N, 3, 64, 64) uint8
    rows: Sequence[Row]

    @classmethod
    def training(cls, folder: Path) -> Pictures:
        """The training pictures; HeldOutLeak if the held-out design or a picture of heldout.zip is among them."""
        pictures = cls.read(folder / TRAIN)
        leaked = sum(is_held_out(row) for row in pictures.rows)
        if leaked:
            raise HeldOutLeak(f"{folder / TRAIN} holds {leaked} pictures of {emoji.HELD_OUT_SET}")
        kept_out = {row.sha256 for row in read_manifest(folder / HELD_OUT)} if (folder / HELD_OUT).exists() else set()
        again = [row.file for row in pictures.rows if row.sha256 in kept_out]
        if again:
            raise HeldOutLeak(f"{folder / TRAIN} holds {len(again)} pictures of {HELD_OUT}, {again[0]} first")
        return pictures

    @classmethod
    def held_out(cls, folder: Path) -> Pictures:
        """The held-out design, for measuring only."""
        return cls.read(folder / HELD_OUT)

    @classmethod
    def read(cls, path: Path) -> Pictures:
        """Decode one zip file."""
        rows = read_manifest(path)
        try:
            with zipfile.ZipFile(path) as file:
                arrays = [np.asarray(Image.open(io.BytesIO(file.read(row.file))).convert("RGB")) for row in rows]
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"no data set at {path}: {error}") from error
        return cls(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous(), rows)


def read_manifest(path: Path) -> list[Row]:
    """The rows of one zip file."""
    try:
        with zipfile.ZipFile(path) as file:
            return [_row(json.loads(line)) for line in file.read("manifest.jsonl").decode().splitlines()]
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"no data set at {path}: {error}") from error


def _row(values: dict[str, object]) -> Row:
    lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    return Row(**{**values, **lists})  # type: ignore[arg-type]


def is_held_out(row: Row) -> bool:
    """True for a picture of the held-out design, by design or by package."""
    return row.design == emoji.HELD_OUT_SET or row.package.endswith(emoji.HELD_OUT_SET)


def build(folder: Path, share_alike: bool = False) -> dict[str, int]:
    """Fetch, render and write both files; the number of pictures per design."""
    base = folder / "npm"
    versions = fetch(base, [*emoji.WORD_PACKAGES, *emoji.TRAINING_SETS, emoji.HELD_OUT_SET])
    things = emoji.read_things(base)
    index = emoji.name_index(base, things)
    allowed = emoji.FREE_LICENCES + (emoji.SHARE_ALIKE if share_alike else ())
    counts: dict[str, int] = {}
    for path, designs in ((TRAIN, emoji.TRAINING_SETS), (HELD_OUT, (emoji.HELD_OUT_SET,))):
        drawings = []
        for design in designs:
            if path == HELD_OUT or emoji.licence(design, base)[0] in allowed:
                drawings += list(emoji.read_drawings(design, base, things, index))
        licences = {design: emoji.licence(design, base)[0] for design in designs}
        rendered = render_all(drawings, versions, licences)
        write(folder / path, rendered)
        for row, _ in rendered:
            counts[row.design] = counts.get(row.design, 0) + 1
    return counts


def fetch(base: Path, names: Iterable[str]) -> dict[str, str]:
    """Download and unpack packages that are not there yet; their versions by name."""
    base.mkdir(parents=True, exist_ok=True)
    versions = {}
    for name in names:
        target = base / name
        if not target.is_dir():
            package = name if name in emoji.WORD_PACKAGES else emoji.npm_name(name)
            command = ["npm", "pack", "--silent", "--pack-destination", str(base), package]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise DataError(f"npm pack {package}: {done.stderr.strip()}")
            _unpack(base / done.stdout.split()[-1], target)
        versions[name] = json.loads((target / "package.json").read_text(encoding="utf-8"))["version"]
    return versions


def _unpack(archive: Path, target: Path) -> None:
    """Take a package's JSON and licence files out of its tarball."""
    with tarfile.open(archive) as file:
        for member in file.getmembers():
            name = Path(*Path(member.name).parts[1:])
            if member.isfile() and not name.is_absolute() and ".." not in name.parts:
                data = file.extractfile(member)
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (target / name).write_bytes(data.read() if data else b"")


def render(svg: str, side: int = SIDE) -> np.ndarray:
    """An SVG on white, (side, side, 3) uint8, centred, its shape kept."""
    import resvg_py

    data = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, background="white")
    return squared(Image.open(io.BytesIO(bytes(data))).convert("RGB"), side)


def squared(picture: Image.Image, side: int = SIDE) -> np.ndarray:
    """An RGB picture in the middle of a white square, (side, side, 3) uint8, its shape kept."""
    if picture.size != (side, side):
        square = Image.new("RGB", (side, side), "white")
        fitted = ImageOps.contain(picture, (side, side), Image.Resampling.LANCZOS)
        square.paste(fitted, ((side - fitted.width) // 2, (side - fitted.height) // 2))
        picture = square
    return np.asarray(picture)


def render_all(
    drawings: Sequence[emoji.Drawing], versions: dict[str, str], licences: dict[str, str]
) -> list[tuple[Row, bytes]]:
    """Manifest rows and lossless WebP bytes; a drawing that renders to one flat colour is left out."""

    def one(drawing: emoji.Drawing) -> tuple[Row, bytes] | None:
        pixels = render(drawing.svg)
        if pixels.std() < 1.0:
            return None
        thing, digest = drawing.thing, hashlib.sha256(pixels.tobytes()).hexdigest()
        row = Row(
            file=f"{drawing.design}/{thing.code}.webp",
            design=drawing.design,
            code=thing.code,
            name=thing.name,
            aliases=thing.aliases,
            keywords=thing.keywords,
            group=thing.group,
            package=emoji.npm_name(drawing.design),
            version=versions[drawing.design],
            licence=licences[drawing.design],
            sha256=digest,
        )
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, method=4)
        return row, buffer.getvalue()

    with ThreadPoolExecutor(2) as pool:
        return [item for item in pool.map(one, drawings) if item is not None]


def write(path: Path, rendered: Iterable[tuple[Row, bytes]]) -> None:
    """One zip file: the manifest first, then the pictures."""
    items = list(rendered)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("manifest.jsonl", "".join(json.dumps(asdict(row)) + "\n" for row, _ in items))
        for row, data in items:
            file.writestr(zipfile.ZipInfo(row.file), data, zipfile.ZIP_STORED)
