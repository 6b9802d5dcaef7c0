"""What to compute: one frozen, validated type per kind, with every limit in it.

The HTTP schema, the stored record and the engine all use these types, so a job that was accepted can be run.
Validation failures are pydantic's; the API turns them into one problem document that names field and limit.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_core import PydanticKnownError

from shared.specs.clip import (
    GENERATED,
    ClassifySpec,
    DuplicatesSpec,
    GroupSpec,
    IndexSpec,
    RankSpec,
    ReembedSpec,
    RemoveSpec,
    SearchSpec,
)
from shared.specs.types import Frozen, ImageRef, ModelId, Text

__all__ = [
    "GENERATORS",
    "KINDS",
    "DalleSpec",
    "ImagePrefix",
    "ProbeSpec",
    "PromptTerm",
    "Spec",
    "UnclipSpec",
    "VqganClipSpec",
    "image_refs",
    "parse_prompt_terms",
    "parse_spec",
    "pictures_named",
    "read_spec",
]

MAX_SEED = 2**63 - 1
MAX_PROMPT_TERMS = 32  # of one vqgan_clip job

Seed = Annotated[int, Field(ge=0, le=MAX_SEED, description="0 is a seed; left out, one is drawn and echoed")]
Collect = Annotated[
    bool | None,
    Field(description=f"put the pictures into your collection `{GENERATED}`, too; left out, as the server is set"),
]


class PromptTerm(Frozen):
    """One thing the picture should be near to (or, with a negative weight, far from)."""

    text: Text | None = None
    image: ImageRef | None = None
    weight: float = Field(default=1.0, ge=-10, le=10)
    stop: float | None = Field(default=None, ge=0, le=5, description="distance below which this term stops pulling")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.text is None) == (self.image is None):
            raise ValueError("give exactly one of text and image")
        return self


def parse_prompt_terms(text: str) -> list[dict[str, Any]]:
    """Read the string form `a tree:1 | fog:-0.5:0.2`; numbers are taken from the right, so text may hold colons."""
    terms = []
    for part in text.split("|"):
        pieces = part.strip().split(":")
        numbers: list[float] = []
        while len(pieces) > 1 and len(numbers) < 2:
            try:
                numbers.insert(0, float(pieces[-1]))
            except ValueError:
                break
            pieces.pop()
        term: dict[str, Any] = {"text": ":".join(pieces).strip()}
        term.update(zip(("weight", "stop"), numbers, strict=False))
        terms.append(term)
    return terms


def _prompt_terms(value: Any) -> Any:
    """Accept a string, a list of strings, or a list of terms. Bounded before anything is split."""
    items = [value] if isinstance(value, str) else value
    if isinstance(items, list):
        count = sum(item.count("|") + 1 if isinstance(item, str) else 1 for item in items)
        if count > MAX_PROMPT_TERMS:
            limits = {"field_type": "List", "max_length": MAX_PROMPT_TERMS, "actual_length": count}
            raise PydanticKnownError("too_long", limits)
        value = items
    if isinstance(value, list):
        return [term for item in value for term in (parse_prompt_terms(item) if isinstance(item, str) else [item])]
    return value


class ImagePrefix(Frozen):
    """The top of a given picture, kept as it is; the model continues below it."""

    image: ImageRef
    rows: int = Field(ge=1, le=63, description="rows of image tokens to keep, from the top")


class DalleSpec(Frozen):
    """Text tokens in, image tokens out, by autoregressive sampling; the best `keep` by CLIP are stored."""

    kind: Literal["dalle"] = "dalle"
    prompts: list[Text] = Field(min_length=1, max_length=32)
    n: int = Field(default=4, ge=1, le=512, description="candidates per prompt")
    keep: int | None = Field(default=None, ge=1, le=512, description="best by CLIP to keep per prompt; all if left out")
    temperature: float = Field(default=1.0, ge=0.05, le=4)
    top_k: int = Field(default=256, ge=1, le=16384)
    top_p: float = Field(default=1.0, gt=0, le=1)
    guidance: float | None = Field(default=None, ge=1, le=32, description="classifier-free guidance; model default")
    seed: Seed | None = None
    collect: Collect = None
    image_prefix: ImagePrefix | None = None
    preview_every: int = Field(default=16, ge=0, le=4096, description="tokens between previews; 0 for none")
    model: ModelId = "emoji-dalle"

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.keep is not None and self.keep > self.n:
            raise ValueError(f"keep is {self.keep} but n is only {self.n}")
        if self.n * len(self.prompts) > 512:
            raise ValueError(f"n times the number of prompts is {self.n * len(self.prompts)}; the limit is 512")
        return self


class VqganClipSpec(Frozen):
    """A VQGAN latent moved, step by step, to where CLIP sees the prompts."""

    kind: Literal["vqgan_clip"] = "vqgan_clip"
    prompts: Annotated[
        list[PromptTerm],
        Field(min_length=1, max_length=MAX_PROMPT_TERMS),
        BeforeValidator(_prompt_terms, json_schema_input_type=str | list[str | PromptTerm]),
    ]
    iterations: int = Field(default=200, ge=1, le=5000)
    size: list[int] = Field(
        default=[64, 64], min_length=2, max_length=2, description="width and height in pixels, multiples of 8"
    )
    cutouts: int | None = Field(default=None, ge=1, le=256, description="views per step; model default if left out")
    learning_rate: float | None = Field(default=None, gt=0, le=5)
    optimizer: Literal["adam"] = "adam"
    init_image: ImageRef | None = None
    init_noise: Literal["codes", "smooth"] = "smooth"
    init_weight: float = Field(default=0.0, ge=0, le=10, description="pull back to the initial latent")
    perceptors: list[ModelId] = Field(default=["emoji-clip"], min_length=1, max_length=4)
    seed: Seed | None = None
    collect: Collect = None
    preview_every: int = Field(default=20, ge=0, le=5000, description="iterations between previews; 0 for none")
    video: bool = Field(default=False, description="also store the previews as an animated WebP, `video.webp`")
    model: ModelId = "emoji-vqgan"

    @field_validator("size")
    @classmethod
    def _size_fits(cls, size: list[int]) -> list[int]:
        for side in size:
            if not 32 <= side <= 1024 or side % 8:
                raise ValueError(f"each side must be a multiple of 8 from 32 to 1024, got {side}")
        return size

    @model_validator(mode="after")
    def _has_a_pull(self) -> Self:
        if not any(term.weight > 0 for term in self.prompts):
            raise ValueError("at least one prompt needs a positive weight")
        return self


class UnclipSpec(Frozen):
    """DALL-E 2's way: a caption's CLIP vector becomes a picture's, and that a picture; or variations of a picture."""

    kind: Literal["unclip"] = "unclip"
    prompts: list[Text] = Field(default=[], max_length=32)
    image: ImageRef | None = Field(
        default=None, description="draw variations of this picture; one prompt, if given, only ranks them"
    )
    n: int = Field(default=4, ge=1, le=512, description="candidates per prompt")
    keep: int | None = Field(default=None, ge=1, le=512, description="best by CLIP to keep per prompt; all if left out")
    prior_steps: int | None = Field(default=None, ge=1, le=250, description="caption to picture vector; model default")
    prior_guidance: float | None = Field(default=None, ge=1, le=32, description="of the prior; model default")
    decoder_steps: int | None = Field(default=None, ge=1, le=250, description="vector to picture; model default")
    guidance: float | None = Field(default=None, ge=1, le=32, description="of the decoder; model default")
    seed: Seed | None = None
    collect: Collect = None
    preview_every: int = Field(default=6, ge=0, le=250, description="decoder steps between previews; 0 for none")
    model: ModelId = "emoji-unclip"

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not self.prompts and self.image is None:
            raise ValueError("give prompts, or an image to vary")
        if self.image is not None and len(self.prompts) > 1:
            raise ValueError(f"variations of an image are ranked by one prompt, not by {len(self.prompts)}")
        if self.keep is not None and self.keep > self.n:
            raise ValueError(f"keep is {self.keep} but n is only {self.n}")
        if self.n * len(self.prompts) > 512:
            raise ValueError(f"n times the number of prompts is {self.n * len(self.prompts)}; the limit is 512")
        return self


class ProbeSpec(Frozen):
    """An operator's canary: takes steps, sleeps, writes bytes, or fails on purpose. Touches no device."""

    kind: Literal["probe"] = "probe"
    steps: int = Field(default=0, ge=0, le=100_000)
    step_s: float = Field(default=0.0, ge=0, le=60, description="seconds each step sleeps")
    write_bytes: int = Field(default=0, ge=0, le=64 * 2**20, description="size of the artifact `probe.bin`; 0 for none")
    fail: Literal["never", "once", "always", "permanently"] = Field(
        default="never", description="once and always are retryable errors, permanently is not"
    )


Spec = Annotated[
    DalleSpec | VqganClipSpec | UnclipSpec | RankSpec | ClassifySpec | SearchSpec | IndexSpec | RemoveSpec
    | ReembedSpec | DuplicatesSpec | GroupSpec | ProbeSpec,
    Field(discriminator="kind"),
]  # fmt: skip

KINDS: tuple[str, ...] = (
    "dalle", "vqgan_clip", "unclip", "rank", "classify", "search", "index", "remove", "reembed", "duplicates", "group",
    "probe",
)  # fmt: skip
GENERATORS: frozenset[str] = frozenset({"dalle", "vqgan_clip", "unclip"})  # kinds that make pictures from a seed

_ADAPTER: TypeAdapter[Spec] = TypeAdapter(Spec)


def parse_spec(kind: str, input_: dict[str, Any]) -> Spec:
    """The spec of `kind` from its JSON form. Raises pydantic.ValidationError; an unknown kind is one too."""
    return _ADAPTER.validate_python({**input_, "kind": kind})


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


def pictures_named(spec: Spec) -> dict[str, str]:
    """Field path -> picture, of all that must be there and readable before the job can start. An index job's pictures
    are not among them: one that is missing is an error of its own."""
    if isinstance(spec, RankSpec | ClassifySpec):
        return {f"images.{index}": ref for index, ref in enumerate(spec.images)}
    if isinstance(spec, DalleSpec):
        return {"image_prefix.image": spec.image_prefix.image} if spec.image_prefix else {}
    if isinstance(spec, UnclipSpec):
        return {"image": spec.image} if spec.image else {}
    if isinstance(spec, VqganClipSpec):
        named = {f"prompts.{index}.image": term.image for index, term in enumerate(spec.prompts) if term.image}
        return {**named, **({"init_image": spec.init_image} if spec.init_image else {})}
    if isinstance(spec, SearchSpec):
        named = {f"terms.{index}.image": term.image for index, term in enumerate(spec.terms) if term.image}
        return {**({"image": spec.image} if spec.image else {}), **named}
    return {}


def image_refs(spec: Spec) -> list[str]:
    """Every picture the spec names, in order, each once."""
    return list(dict.fromkeys(pictures_named(spec).values()))
