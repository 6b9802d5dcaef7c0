"""The kinds that CLIP answers: of pictures named in the job, and of collections."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from shared.specs.filters import FieldName, Filter, Value
from shared.specs.types import Frozen, ImageRef, ModelId, Spec, Text

__all__ = [
    "GENERATED", "MAX_INDEX_IMAGES", "ArchiveRef", "ClassifySpec", "CollectionName", "DuplicatesSpec", "GroupSpec",
    "IndexItem", "IndexSpec", "JobId", "Metadata", "RankSpec", "ReembedSpec", "RemoveSpec", "RowId", "SearchSpec",
    "SearchTerm",
]  # fmt: skip

GENERATED = "generated"  # the collection that a tenant's own pictures go to
MAX_IMAGES_IN = 256  # pictures one rank or classify job may name
MAX_INDEX_IMAGES = 1_000  # one index job may name; archives hold more
MAX_METADATA_BYTES = 4_096  # of one picture, as JSON
MAX_WIDTH = 4_096  # of an embedding

CollectionName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
RowId = Annotated[str, Field(pattern=r"^img_[0-9a-f]{64}$", description="a picture of the collection, by its content")]
JobId = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
ArchiveRef = Annotated[
    str,
    Field(
        pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/archive\.(zip|tar)$",
        description="an archive that was sent to a collection, by the job that it started",
    ),
]
Url = Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=2_048)]
Cursor = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,512}$", description="next_cursor of the page before")]


def _small(metadata: dict[str, Any]) -> dict[str, Any]:
    size = len(json.dumps(metadata, ensure_ascii=False).encode())
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"metadata has {size} bytes as JSON; the limit is {MAX_METADATA_BYTES}")
    return metadata


Metadata = Annotated[dict[FieldName, Value], Field(max_length=32), AfterValidator(_small)]


class RankSpec(Spec):
    """How well each picture fits each prompt: scores and order."""

    kind: Literal["rank"] = "rank"
    images: list[ImageRef] = Field(min_length=1, max_length=MAX_IMAGES_IN)
    prompt: Text | None = Field(default=None, description="one prompt; or give `prompts`")
    prompts: list[Text] = Field(default=[], max_length=MAX_IMAGES_IN)
    model: ModelId = "emoji-clip"

    @model_validator(mode="after")
    def _has_prompts(self) -> Self:
        if (self.prompt is None) == (not self.prompts):
            raise ValueError("give exactly one of prompt and prompts")
        return self

    @property
    def all_prompts(self) -> list[str]:
        """One or many."""
        return self.prompts or [self.prompt or ""]

    def pictures_named(self) -> dict[str, str]:
        """Those to be put in order."""
        return {f"images.{index}": ref for index, ref in enumerate(self.images)}


class ClassifySpec(Spec):
    """Zero-shot classification: a probability per label and picture."""

    kind: Literal["classify"] = "classify"
    images: list[ImageRef] = Field(default=[], max_length=MAX_IMAGES_IN)
    collection: CollectionName | None = Field(default=None, description="all its pictures, in place of `images`")
    filter: Filter | None = Field(default=None, description="only those of the collection")
    labels: list[Text] = Field(min_length=2, max_length=2000)
    templates: Annotated[list[Text], Field(min_length=1, max_length=80)] | Literal["imagenet_80", "imagenet_7"] = Field(
        default=["{}"], description="texts with one {} for the label; or a set of Radford et al. by its name"
    )
    top_k: int = Field(default=5, ge=1, le=100, description="labels listed per picture, best first")
    other_below: float | None = Field(
        default=None, gt=0, lt=1, description="a picture whose best label is less likely than this is `other`"
    )
    model: ModelId = Field(default="emoji-clip", description="of `images`; a collection has its own")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.images) == (self.collection is not None):
            raise ValueError("give exactly one of images and collection")
        if self.filter is not None and self.collection is None:
            raise ValueError("a filter is for a collection")
        return self

    @field_validator("templates")
    @classmethod
    def _has_a_place(cls, templates: list[str] | str) -> list[str] | str:
        for template in [] if isinstance(templates, str) else templates:
            if template.count("{}") != 1:
                raise ValueError(f"a template needs exactly one {{}}, got {template!r}")
        return templates

    @field_validator("labels")
    @classmethod
    def _are_distinct(cls, labels: list[str]) -> list[str]:
        if len(set(labels)) != len(labels):
            raise ValueError("labels must differ from each other")
        return labels

    def pictures_named(self) -> dict[str, str]:
        """Those to be labelled; a collection has its own."""
        return {f"images.{index}": ref for index, ref in enumerate(self.images)}


class IndexItem(Frozen):
    """One picture to put into a collection."""

    image: ImageRef | None = None
    url: Url | None = Field(default=None, description="fetched by a worker, from public addresses only")
    metadata: Metadata = Field(default={})

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.image is None) == (self.url is None):
            raise ValueError("give exactly one of image and url")
        return self


class IndexSpec(Spec):
    """Pictures into a collection, each once by its content. One that cannot be read is an error of its own."""

    kind: Literal["index"] = "index"
    collection: CollectionName
    images: list[IndexItem] = Field(default=[], max_length=MAX_INDEX_IMAGES)  # none must be there for the job to start
    archive: ArchiveRef | None = None
    job: JobId | None = Field(default=None, description="every picture that this job of yours made")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum((bool(self.images), self.archive is not None, self.job is not None)) != 1:
            raise ValueError("give exactly one of images, archive and job")
        return self


class RemoveSpec(Spec):
    """Pictures out of a collection: those named, or those that match."""

    kind: Literal["remove"] = "remove"
    collection: CollectionName
    ids: list[RowId] = Field(default=[], max_length=10_000)
    filter: Filter | None = None

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if bool(self.ids) == (self.filter is not None):
            raise ValueError("give exactly one of ids and filter")
        return self


class ReembedSpec(Spec):
    """A collection seen anew by another CLIP, beside the old vectors, which answer until all new ones are there."""

    kind: Literal["reembed"] = "reembed"
    collection: CollectionName
    model: ModelId


class SearchTerm(Frozen):
    """What hits should be near to (or, with a negative weight, far from)."""

    text: Text | None = None
    image: ImageRef | None = None
    id: RowId | None = None
    embedding: list[float] | None = Field(default=None, min_length=2, max_length=MAX_WIDTH)
    weight: float = Field(default=1.0, ge=-10, le=10)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.text, self.image, self.id, self.embedding)) != 1:
            raise ValueError("give exactly one of text, image, id and embedding")
        if self.weight == 0:
            raise ValueError("a weight of 0 says nothing")
        return self

    @field_validator("embedding")
    @classmethod
    def _has_a_direction(cls, embedding: list[float] | None) -> list[float] | None:
        if embedding is not None and not 1e-6 < sum(value * value for value in embedding) < 1e12:
            raise ValueError("an embedding is finite and not zero")
        return embedding


class SearchSpec(Spec):
    """The pictures of a collection nearest to a weighted sum of texts, pictures and vectors."""

    kind: Literal["search"] = "search"
    collection: CollectionName
    text: Text | None = Field(default=None, description="short for a term of weight 1")
    image: ImageRef | None = Field(default=None, description="short for a term of weight 1")
    terms: list[SearchTerm] = Field(default=[], max_length=32)
    filter: Filter | None = Field(default=None, description="applied before ranking")
    limit: int = Field(default=10, ge=1, le=1_000)
    cursor: Cursor | None = None
    min_score: float | None = Field(default=None, ge=0, le=1, description="least calibrated score of a hit")
    min_cosine: float | None = Field(default=None, ge=-1, le=1)
    dedup: float | None = Field(
        default=None, gt=0, le=1, description="of hits whose cosine with each other is so high, only the best is shown"
    )
    diversity: float = Field(
        default=0.0, ge=0, le=1, description="maximal marginal relevance: 0 ranks by score alone, 1 by difference"
    )

    @model_validator(mode="after")
    def _can_be_ranked(self) -> Self:
        if not self.all_terms:
            raise ValueError("give text, image or terms")
        if self.cursor is not None and self.diversity:
            raise ValueError("diversity orders one page as a whole; it takes no cursor")
        return self

    @property
    def all_terms(self) -> list[SearchTerm]:
        """With those of the short forms, first."""
        short = [SearchTerm(text=self.text)] if self.text is not None else []
        short += [SearchTerm(image=self.image)] if self.image is not None else []
        return [*short, *self.terms]

    def pictures_named(self) -> dict[str, str]:
        """Those to be near to, or far from."""
        named = {f"terms.{index}.image": term.image for index, term in enumerate(self.terms) if term.image}
        return {**({"image": self.image} if self.image else {}), **named}


class DuplicatesSpec(Spec):
    """Which pictures of a collection are nearly the same."""

    kind: Literal["duplicates"] = "duplicates"
    collection: CollectionName
    filter: Filter | None = None
    threshold: float = Field(default=0.97, ge=0.5, le=1, description="cosine from which two are near-duplicates")


class GroupSpec(Spec):
    """A collection in k groups of pictures that are alike (k-means on the sphere)."""

    kind: Literal["group"] = "group"
    collection: CollectionName
    filter: Filter | None = None
    k: int = Field(default=8, ge=2, le=1_000)
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    labels: list[Text] = Field(default=[], max_length=2_000, description="each group is named by the nearest of them")
