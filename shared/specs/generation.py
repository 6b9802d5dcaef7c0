"""The kinds that make pictures from a seed."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticKnownError

from shared.specs.clip import GENERATED
from shared.specs.types import Frozen, ImageRef, ModelId, Spec, Text

__all__ = ["MAX_SEED", "DalleSpec", "ImagePrefix", "PromptTerm", "UnclipSpec", "VqganClipSpec", "parse_prompt_terms"]

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


class DalleSpec(Spec):
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

    def pictures_named(self) -> dict[str, str]:
        """The one whose top is kept."""
        return {"image_prefix.image": self.image_prefix.image} if self.image_prefix else {}


class VqganClipSpec(Spec):
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

    def pictures_named(self) -> dict[str, str]:
        """Those that prompts are made of, and the one to begin with."""
        named = {f"prompts.{index}.image": term.image for index, term in enumerate(self.prompts) if term.image}
        return {**named, **({"init_image": self.init_image} if self.init_image else {})}

    def models_named(self) -> dict[str, str]:
        """Also every CLIP that pulls."""
        return {"model": self.model, **{f"perceptors.{index}": model for index, model in enumerate(self.perceptors)}}


class UnclipSpec(Spec):
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

    def pictures_named(self) -> dict[str, str]:
        """The one to vary."""
        return {"image": self.image} if self.image else {}
