"""The pictures that ship with the embedded stack: the held-out design as an archive that `dreamqueue index` takes.

They are the pictures of `heldout.zip` to the last pixel, so what is measured there holds for a search here. They are
for looking at and for searching; `Pictures.training` refuses a data set that holds one of them.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

from PIL import ExifTags, Image

from worker.training.data import emoji
from worker.training.data.pictures import SIDE, fetch, render
from worker.training.errors import DataError

__all__ = ["FIELDS", "build_archive"]

FIELDS = ("file", "name", "group", "keywords", "code")
LONGEST_VALUE = 1_000  # characters of a metadata value (shared.specs.filters.Value)
NOTE = """\
{count} pictures. All emojis designed by {author} - the open-source emoji and icon project, https://openmoji.org,
{address}. License: {title}, {url}

Changed: the SVG drawings of the npm package {package} {version} were rendered on white at {side}x{side} pixels and
saved as lossless WebP; skin-tone variants, country flags and drawings of nothing are left out; files are named by their
Unicode names. Whoever passes these pictures on, changed or not, passes them on under the same licence.

metadata.csv: the names and words are those of the npm packages emojibase-data {words} and emojilib {library}, whose
licences follow. Made by `dreamqueue train openmoji`.

--- emojibase-data ---
{words_licence}
--- emojilib ---
{library_licence}"""


def build_archive(folder: Path, path: Path) -> int:
    """Fetch the packages into `folder`/npm unless they are there, and write the archive; its number of pictures. Made
    twice from the same packages it is the same, byte for byte."""
    base = folder / "npm"
    versions = fetch(base, [*emoji.WORD_PACKAGES, emoji.HELD_OUT_SET])
    things = emoji.read_things(base)
    groups = _group_names(base)
    rows: list[dict[str, str]] = []
    pictures: list[bytes] = []
    drawings = emoji.read_drawings(emoji.HELD_OUT_SET, base, things, emoji.name_index(base, things))
    for drawing in sorted(drawings, key=lambda drawing: drawing.thing.code):
        pixels = render(drawing.svg)
        if pixels.std() < 1.0:  # drawn in white on nothing
            continue
        pictures.append(_encoded(Image.fromarray(pixels), drawing.thing))
        rows.append(_row(drawing.thing, groups, {row["file"] for row in rows}))
    if not rows:
        raise DataError(f"no drawings of {emoji.HELD_OUT_SET} under {base}")
    _write(path, _note(base, versions, len(rows)), rows, pictures)
    return len(rows)


def _encoded(picture: Image.Image, thing: emoji.Thing) -> bytes:
    """As WebP that says whose it is. It also says what it shows, so no two files are equal: OpenMoji draws 26 things
    twice alike, and a collection holds a file once."""
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = f"{thing.name}, {_code(thing)}"
    exif[ExifTags.Base.Copyright] = "OpenMoji, CC BY-SA 4.0"
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=True, quality=100, method=6, exif=exif)
    return buffer.getvalue()


def _code(thing: emoji.Thing) -> str:
    """Never a number to whoever reads the table."""
    return " ".join(f"U+{part}" for part in thing.code.split("-"))


def _row(thing: emoji.Thing, groups: dict[int, str], taken: set[str]) -> dict[str, str]:
    name = emoji.slug(thing.name)
    keywords = ""
    for word in dict.fromkeys((*thing.aliases, *thing.keywords)):
        longer = f"{keywords}, {word}" if keywords else word
        keywords = longer if len(longer) <= LONGEST_VALUE else keywords
    return {
        "file": f"{name}.webp" if f"{name}.webp" not in taken else f"{name}-{thing.code.lower()}.webp",
        "name": thing.name,
        "group": groups[thing.group],
        "keywords": keywords,
        "code": _code(thing),
    }


def _group_names(base: Path) -> dict[int, str]:
    """emojibase's groups in words, as "food & drink"."""
    messages = json.loads((base / "emojibase-data" / "en" / "messages.json").read_text(encoding="utf-8"))
    return {group["order"]: group["message"] for group in messages["groups"]}


def _note(base: Path, versions: dict[str, str], count: int) -> str:
    info = json.loads((base / emoji.HELD_OUT_SET / "info.json").read_text(encoding="utf-8"))
    return NOTE.format(
        count=count,
        author=info["author"]["name"],
        address=info["author"]["url"],
        title=info["license"]["title"],
        url=info["license"]["url"],
        package=emoji.npm_name(emoji.HELD_OUT_SET),
        version=versions[emoji.HELD_OUT_SET],
        side=SIDE,
        words=versions["emojibase-data"],
        words_licence=(base / "emojibase-data" / "LICENSE").read_text(encoding="utf-8"),
        library=versions["emojilib"],
        library_licence=(base / "emojilib" / "LICENSE").read_text(encoding="utf-8"),
    )


def _write(path: Path, note: str, rows: Sequence[dict[str, str]], pictures: Sequence[bytes]) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, text in (("LICENSE.txt", note), ("metadata.csv", table.getvalue())):
            file.writestr(_entry(name, zipfile.ZIP_DEFLATED), text, compresslevel=9)
        for row, picture in zip(rows, pictures, strict=True):
            file.writestr(_entry(row["file"], zipfile.ZIP_STORED), picture)


def _entry(name: str, form: int) -> zipfile.ZipInfo:
    """Without today's date and this machine's rights."""
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = form
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    return entry
