"""Emoji sets as npm packages: which there are, their licences, and whose picture shows which thing.

A thing is an emoji without skin tone, named as in Unicode CLDR (package emojibase-data). Country and region flags,
regional indicators and tone variants are left out: they are alike at 64 pixels, or the same thing again.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRAINING_SETS = (
    "noto",
    "twemoji",
    "fluent-emoji",
    "fluent-emoji-flat",
    "emojione",
    "noto-v1",
    "emojione-v1",
    "fxemoji",
)
HELD_OUT_SET = "openmoji"  # the design that nothing may train on
WORD_PACKAGES = ("emojibase-data", "emojilib")
FREE_LICENCES = ("Apache-2.0", "MIT", "CC-BY-4.0")  # what the embedded weights were trained on
SHARE_ALIKE = ("CC-BY-SA-4.0",)  # taken only when asked for (emojione-v1), and for the held-out measure
_TONE_OR_FLAG = re.compile(r"skin tone|^flag: |^regional indicator")
_TEXT_GROUPS = (2,)  # emojibase's "component" group


def npm_name(design: str) -> str:
    """The npm package of an emoji set."""
    return f"@iconify-json/{design}"


@dataclass(frozen=True, slots=True)
class Thing:
    """What a picture shows."""

    code: str  # hexcode without variation selectors, such as 1F34E
    name: str  # CLDR short name, lower case
    aliases: tuple[str, ...]  # other names, from shortcodes
    keywords: tuple[str, ...]  # CLDR tags and emojilib's words
    group: int  # emojibase's group number


@dataclass(frozen=True, slots=True)
class Drawing:
    """One picture of a thing, not yet rendered."""

    design: str
    icon: str  # the set's own name for it
    thing: Thing
    svg: str


def slug(text: str) -> str:
    """Lower case, accents stripped, words joined by hyphens: how iconify names icons."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower().replace("'", "").replace("’", "")).strip("-")


def bare(code: str) -> str:
    """A hexcode without variation selectors, upper case."""
    return "-".join(part for part in code.upper().split("-") if part not in ("FE0F", "FE0E"))


def read_things(base: Path) -> dict[str, Thing]:
    """Things by code, from unpacked `emojibase-data` and `emojilib` under `base`."""
    english = base / "emojibase-data" / "en"
    rows = _json(english / "data.json")
    shortcodes = [_json(english / "shortcodes" / f"{name}.json") for name in ("cldr", "github", "joypixels")]
    library = _json(base / "emojilib" / "dist" / "emoji-en-US.json")
    words = {_plain(symbol): values for symbol, values in library.items()}
    found = [_thing(row, shortcodes, words) for row in rows if _is_wanted(row)]
    return {thing.code: thing for thing in found}


def _is_wanted(row: dict[str, Any]) -> bool:
    return row.get("group") not in (None, *_TEXT_GROUPS) and not _TONE_OR_FLAG.search(str(row["label"]).lower())


def _thing(row: dict[str, Any], shortcodes: list[dict[str, Any]], words: dict[str, list[str]]) -> Thing:
    """Of a row of emojibase; `words`: emojilib's, by symbol."""
    name = str(row["label"]).lower().replace("keycap: ", "keycap ")
    aliases = _spoken(value for table in shortcodes for value in _list(table.get(row["hexcode"])))
    keywords = _spoken([*row.get("tags", []), *words.get(_plain(row["emoji"]), [])])
    return Thing(bare(row["hexcode"]), name, _others(aliases, name), _others(keywords, name), row["group"])


def _others(words: list[str], name: str) -> tuple[str, ...]:
    """Each once, and not the name again."""
    return tuple(word for word in dict.fromkeys(words) if word != name)


def name_index(base: Path, things: dict[str, Thing]) -> dict[str, str]:
    """Codes by every icon name that means them: slugs of names, of shortcodes, and the sets' own tables."""
    index: dict[str, str] = {}
    for design in (*TRAINING_SETS, HELD_OUT_SET):
        table = base / design / "chars.json"
        if table.is_file():
            for code, icon in _json(table).items():
                if bare(code) in things:
                    index.setdefault(icon, bare(code))
    for thing in things.values():
        index.setdefault(slug(thing.name), thing.code)
    for thing in things.values():
        for alias in thing.aliases:
            index.setdefault(slug(alias), thing.code)
    for icon, code in list(index.items()):
        index.setdefault(icon.replace("-", ""), code)  # fxemoji writes names without hyphens
    return index


def read_drawings(design: str, base: Path, things: dict[str, Thing], index: dict[str, str]) -> Iterator[Drawing]:
    """A set's drawings of known things, one per thing and icon name (aliases are the same picture again)."""
    data = _json(base / design / "icons.json")
    taken: set[str] = set()
    for icon, body in sorted(data["icons"].items()):
        code = index.get(icon)
        if code is None or code in taken or body.get("hidden"):
            continue
        taken.add(code)
        box = {key: body.get(key, data.get(key, fallback)) for key, fallback in _BOX.items()}
        frame = f"{box['left']} {box['top']} {box['width']} {box['height']}"
        names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        yield Drawing(design, icon, things[code], f'<svg {names} viewBox="{frame}">{body["body"]}</svg>')


_BOX = {"left": 0, "top": 0, "width": 16, "height": 16}  # iconify's defaults


def licence(design: str, base: Path) -> tuple[str, str, str]:
    """SPDX name, author and address of a set's licence, as its package states them."""
    info = _json(base / design / "info.json")
    return info["license"]["spdx"], info["author"]["name"], info["author"].get("url", "")


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _plain(symbol: str) -> str:
    return symbol.replace("\ufe0f", "")


def _list(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _spoken(values: Iterable[str]) -> list[str]:
    """Words as people write them; emoticons and the like are dropped."""
    spoken = (re.sub(r"[_\-]+", " ", value).strip().lower() for value in values)
    return [value for value in spoken if re.fullmatch(r"[a-z0-9' ]{2,60}", value)]
