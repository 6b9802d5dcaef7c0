"""A set of one's own in the form that training reads: folder, table or shards to train.zip and heldout.zip.

A sample's side is fixed by its name alone: the same at every import, and still the same when the set has grown.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from worker.training.data import emoji
from worker.training.data.folders import Columns, Sample, read_samples
from worker.training.data.pictures import HELD_OUT, SIDE, TRAIN, Row, read_manifest, squared
from worker.training.errors import DataError, HeldOutLeak

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 50_000_000  # of one picture; a file that claims more is refused before it is unpacked
NO_GROUP = -1  # outside emojibase's groups


@dataclass(frozen=True, slots=True)
class Origin:
    """What the manifest says of every picture of a set; stated by who imports it."""

    design: str  # the set's name
    source: str  # package, address or owner
    licence: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What to read and how."""

    path: Path
    origin: Origin
    held_out: Path | None = None  # in any of the forms too; else a share of `path` is held out
    share: float = 0.05
    columns: Columns = field(default_factory=Columns)
    skip_bad: bool = False
    max_pixels: int = MAX_PIXELS


@dataclass(slots=True)
class Imported:
    """What came of it."""

    training: int = 0
    held_out: int = 0
    again: int = 0  # pictures met before; their captions were added to the first one's
    faults: list[str] = field(default_factory=list)


def import_set(plan: ImportPlan, folder: Path) -> Imported:
    """Write train.zip and heldout.zip of `folder`, both or none.

    Raises DataError that names file and row, HeldOutLeak for the design that is held out by its name.
    """
    _check(plan, folder)
    folder.mkdir(parents=True, exist_ok=True)
    done = Imported()
    with _Shelf(folder / HELD_OUT) as held_out, _Shelf(folder / TRAIN) as training:
        if plan.held_out is not None:
            _fill(plan, plan.held_out, held_out, held_out, done)
        _fill(plan, plan.path, training, held_out, done)
        done.training, done.held_out = len(training.rows), len(held_out.rows)
        for name, count in (("training", done.training), ("held-out", done.held_out)):
            if not count:
                raise DataError(f"no {name} picture of {plan.path} is left ({len(done.faults)} were bad)")
    return done


def _check(plan: ImportPlan, folder: Path) -> None:
    """Refuse what would break the set that is there, or the promise about the held-out design."""
    origin = plan.origin
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", origin.design):
        raise DataError(f"a set's name is made of a-z 0-9 . _ -: {origin.design!r} is not")
    if emoji.HELD_OUT_SET in (origin.design, origin.source.rpartition("/")[2]):
        raise HeldOutLeak(f"{emoji.HELD_OUT_SET} is held out: no set of that name or source is imported for training")
    if not origin.source or not origin.licence:
        raise DataError("the manifest states source and licence of every picture: give --source and --licence")
    if not 0.0 <= plan.share < 1.0:
        raise DataError(f"the held-out share is at least 0 and under 1, not {plan.share}")
    if (folder / TRAIN).exists():
        others = {row.design for row in read_manifest(folder / TRAIN)} - {origin.design}
        if others:
            raise DataError(f"{folder} already holds the set {', '.join(sorted(others))}: choose another --data folder")


def _fill(plan: ImportPlan, path: Path, main: _Shelf, held_out: _Shelf, done: Imported) -> None:
    for sample in read_samples(path, plan.columns):
        fault = sample.fault
        if not fault:
            try:
                pixels = decode(sample.data, plan.max_pixels)
            except DataError as error:
                fault = str(error)
        if fault:
            if not plan.skip_bad:
                raise DataError(f"{sample.where}: {fault}")
            done.faults.append(f"{sample.where}: {fault}")
            continue
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        met = next((shelf for shelf in (held_out, main) if digest in shelf.rows), None)
        if met is not None:
            met.add_words(digest, sample)
            done.again += 1
            continue
        aside = plan.held_out is None and is_set_aside(sample.name, plan.share)
        (held_out if aside else main).put(digest, sample, pixels, plan.origin)


def is_set_aside(name: str, share: float) -> bool:
    """True for that share of all names, by their sha256."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) < share * 2**64


def decode(data: bytes, max_pixels: int) -> np.ndarray:
    """A picture file as (64, 64, 3) uint8 on white, upright, its shape kept; DataError says what is wrong with it."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > max_pixels:
                raise DataError(f"{picture.width} x {picture.height} pixels, at most {max_pixels:,} are allowed")
            picture.draft("RGB", (256, 256))  # a large JPEG is unpacked at a fraction of its size
            upright = ImageOps.exif_transpose(picture).convert("RGBA" if picture.has_transparency_data else "RGB")
            small = ImageOps.contain(upright, (SIDE, SIDE), Image.Resampling.LANCZOS).convert("RGBA")
    except UnidentifiedImageError:
        raise DataError(f"no picture in any of {', '.join(FORMATS)}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"cannot decode the picture: {error}") from error
    ground = Image.new("RGBA", small.size, "white")
    return squared(Image.alpha_composite(ground, small).convert("RGB"))


class _Shelf:
    """One zip file under way: pictures are written as they come, the manifest at the end, all or nothing."""

    def __init__(self, path: Path) -> None:
        self.path, self.fresh = path, path.with_name(path.name + ".new")
        self.rows: dict[str, Row] = {}  # by sha256 of the pixels

    def __enter__(self) -> _Shelf:
        self.file = zipfile.ZipFile(self.fresh, "w")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            lines = "".join(json.dumps(asdict(row)) + "\n" for row in self.rows.values())
            self.file.writestr("manifest.jsonl", lines, zipfile.ZIP_DEFLATED)
        self.file.close()
        if kind is None:
            self.fresh.replace(self.path)
        else:
            self.fresh.unlink()

    def put(self, digest: str, sample: Sample, pixels: np.ndarray, origin: Origin) -> None:
        """Store a picture that is new here."""
        plain = re.sub(r"[^A-Za-z0-9._/-]|\.\.", "_", sample.name).strip("/")
        name, *others = sample.captions
        row = Row(
            file=f"{origin.design}/{plain}-{digest[:8]}.webp",
            design=origin.design,
            code=hashlib.sha256(name.encode()).hexdigest()[:12],  # pictures of one caption are one thing
            name=name,
            aliases=tuple(others),
            keywords=sample.keywords,
            group=NO_GROUP,
            package=origin.source,
            version=origin.version,
            licence=origin.licence,
            sha256=digest,
        )
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, method=4)
        self.file.writestr(row.file, buffer.getvalue())
        self.rows[digest] = row

    def add_words(self, digest: str, sample: Sample) -> None:
        """The same picture once more: its words join the first one's."""
        row = self.rows[digest]
        self.rows[digest] = replace(
            row,
            aliases=_joined(row.aliases, sample.captions, but=row.name),
            keywords=_joined(row.keywords, sample.keywords),
        )


def _joined(one: Iterable[str], other: Iterable[str], but: str = "") -> tuple[str, ...]:
    return tuple(word for word in dict.fromkeys([*one, *other]) if word != but)
