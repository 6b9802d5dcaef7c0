"""The table of kinds: one line each. Schema, OpenAPI, settings, engines and documents follow from it.

A kind is a frozen, validated type with every limit in it, its spec. The HTTP schema, the stored record and the engine
all use it, so a job that was accepted can be run. Validation failures are pydantic's; the API turns them into one
problem document that names field and limit. Other packages add kinds (shared/specs/plugins.py).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache, reduce
from operator import or_
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from shared.specs.clip import (
    ClassifySpec,
    DuplicatesSpec,
    GroupSpec,
    IndexSpec,
    RankSpec,
    ReembedSpec,
    RemoveSpec,
    SearchSpec,
)
from shared.specs.declaration import ALL_DEFAULT, Kind
from shared.specs.generation import DalleSpec, UnclipSpec, VqganClipSpec
from shared.specs.plugins import Plugins, find_plugins
from shared.specs.probe import ProbeSpec
from shared.specs.types import Spec

__all__ = ["OURS", "Kind", "Spec", "broken_kinds", "image_refs", "kinds", "kinds_served", "parse_spec", "read_spec"]

PICTURE = "img_" + "0" * 64
APPLES = {"prompts": ["a red apple"], "n": 16, "keep": 4}
TREE = {"prompts": "a green tree:1 | fog:-0.3", "iterations": 100, "size": [64, 64]}
RED = {"field": "colour", "eq": "red"}
FRUIT = {"collection": "fruit"}
ADDED = {"images": [{"image": PICTURE, "metadata": {"colour": "red"}}]}
ASKED = {"text": "red fruit", "terms": [{"text": "an apple", "weight": -0.5}]}
LABELS = {"images": [PICTURE], "labels": ["an apple", "a pear"]}

GENERATION = "worker.engines.generation"
CLIP = "worker.engines.search.rank_classify:build"
SEARCH = "worker.engines.search.search:build"
KEEPER = "worker.engines.search.collections:build"

OURS: tuple[Kind, ...] = (
    Kind(DalleSpec, f"{GENERATION}.dalle:build", APPLES, makes_pictures=True),
    Kind(VqganClipSpec, f"{GENERATION}.vqgan_clip:build", TREE, makes_pictures=True),
    Kind(UnclipSpec, f"{GENERATION}.unclip:build", APPLES, makes_pictures=True),
    Kind(RankSpec, CLIP, {"images": [PICTURE], "prompt": "a red apple"}),
    Kind(ClassifySpec, CLIP, LABELS, takes_collections=True),
    Kind(SearchSpec, SEARCH, {**FRUIT, **ASKED}, takes_collections=True),
    Kind(IndexSpec, KEEPER, {**FRUIT, **ADDED}, takes_collections=True, is_part_of_collection=True),
    Kind(RemoveSpec, KEEPER, {**FRUIT, "filter": RED}, takes_collections=True, is_part_of_collection=True),
    Kind(ReembedSpec, KEEPER, {**FRUIT, "model": "emoji-clip"}, takes_collections=True, is_part_of_collection=True),
    Kind(DuplicatesSpec, KEEPER, {**FRUIT, "threshold": 0.95}, takes_collections=True, is_part_of_collection=True),
    Kind(GroupSpec, KEEPER, {**FRUIT, "k": 8}, takes_collections=True, is_part_of_collection=True),
    Kind(ProbeSpec, "worker.engines.probe:build", {"steps": 3}, is_for_operators=True),
)


@cache
def kinds() -> Mapping[str, Kind]:
    """Every kind there is, by name: ours, then those of other packages. Loaded at the first call."""
    ours = {kind.name: kind for kind in OURS}
    return MappingProxyType({**ours, **_plugins().kinds})


def broken_kinds() -> frozenset[str]:
    """Names of installed kinds that cannot be used."""
    return _plugins().broken


@cache
def _plugins() -> Plugins:
    return find_plugins([kind.name for kind in OURS])


def kinds_served(setting: str) -> list[str]:
    """The names in the setting KINDS, each once; `default` stands for all that belong to a worker by default."""
    named = [name.strip() for name in setting.split(",") if name.strip()]
    default = [kind.name for kind in kinds().values() if kind.is_default] if ALL_DEFAULT in named else []
    return list(dict.fromkeys(each for name in named for each in (default if name == ALL_DEFAULT else [name])))


@cache
def _adapter() -> TypeAdapter[Spec]:
    union: Any = reduce(or_, (kind.spec for kind in kinds().values()))
    one_of_them: Any = Annotated[union, Field(discriminator="kind")]
    return TypeAdapter(one_of_them)


def parse_spec(kind: str, input_: dict[str, Any]) -> Spec:
    """The spec of `kind` from its JSON form. Raises pydantic.ValidationError; an unknown kind is one too."""
    return _adapter().validate_python({**input_, "kind": kind})


def read_spec(kind: str, stored: Mapping[str, Any]) -> Spec:
    """The spec from a job's record. Fields that only a newer version knows are left out; a value that this version does
    not allow is still refused, since a run without it would not be what was asked for. Raises as parse_spec."""
    try:
        return parse_spec(kind, dict(stored))
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        if any(item["type"] != "extra_forbidden" for item in found):
            raise
    known = copy.deepcopy(dict(stored))
    for item in found:
        _remove(known, item["loc"])
    return parse_spec(kind, known)


def _remove(value: Any, path: tuple[int | str, ...]) -> None:
    """Drop the last member of the path. Parts that name a type rather than a member are passed over."""
    *parents, last = path
    for part in parents:
        is_member = part in value if isinstance(value, dict) else isinstance(part, int)
        value = value[part] if is_member else value
    value.pop(last, None)


def image_refs(spec: Spec) -> list[str]:
    """Every picture the spec names, in order, each once."""
    return list(dict.fromkeys(spec.pictures_named().values()))
