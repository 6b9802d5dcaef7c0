"""The HTTP contract of collections and of what is asked of them, beside the specs of the jobs behind it."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from api.schemas.jobs import Input, JobResult, JobUrls, Output, Time
from shared.specs.clip import CollectionName, Metadata
from shared.specs.filters import FieldType
from shared.specs.types import ModelId

__all__ = [
    "ClassifyAnswer", "Collection", "CollectionInput", "CollectionList", "Hit", "RankAnswer", "SearchAnswer",
]  # fmt: skip


class CollectionInput(Input):
    """A collection to make."""

    model_config = ConfigDict(strict=True)

    name: CollectionName
    model: ModelId = Field(default="emoji-clip", description="the CLIP that sees its pictures, and what is asked of it")
    description: str = Field(default="", max_length=1_000)


class Collection(Output):
    """Pictures that can be searched."""

    name: str
    description: str
    model: str
    fingerprint: str = Field(description="SHA-256 of that model's weights; empty until it is known")
    width: int = Field(description="numbers in an embedding; 0 until the first picture is in")
    rows: int = Field(description="pictures in it")
    bytes: int = Field(description="what its vectors take, as far as the index knows")
    fields: dict[str, FieldType] = Field(description="of its pictures' metadata; a type is settled at first use")
    changes: int = Field(description="grows with each write: a search that began later sees it")
    stale: bool | None = Field(
        description="live workers do not hold the weights that made its vectors: re-embed it, since it cannot be "
        "searched; null while no worker is alive"
    )
    created_at: Time
    changed_at: Time
    reembedding: bool = Field(description="whether another model's vectors are being made beside those that answer")
    urls: dict[str, str]


class CollectionList(Output):
    """All of yours, oldest first."""

    collections: list[Collection]


class Hit(Output):
    """A picture that was found."""

    id: str
    url: str = Field(description="fetch it with your key: it redirects to a URL that needs none")
    cosine: float = Field(description="between its vector and the sum of the terms")
    score: float = Field(description="0 to 1: the chance that it shows what was asked for, as calibrated for the model")
    metadata: Metadata
    added_at: Time


class _Answer(JobResult):
    """What a job made, and which job that was."""

    job_id: str
    timings: dict[str, float] = Field(description="seconds per stage")
    urls: JobUrls = Field(description="of the job")


class SearchAnswer(_Answer):
    """The nearest pictures, best first."""

    collection: str
    model: str
    hits: list[Hit]
    matching: int = Field(description="pictures that the filter let through")
    rows: int = Field(description="pictures in the collection")
    next_cursor: str | None = Field(description="for the page after this one; null on the last")
    truncated_texts: list[str] = Field(description="texts that are longer than the model can read, and were cut")


class ClassifyAnswer(_Answer):
    """How likely each label is, per picture."""

    classifications: list[dict[str, Any]] = Field(description="image, and its labels with probabilities, best first")
    counts: dict[str, int] = Field(default={}, description="of a collection: how many pictures each label is best for")


class RankAnswer(_Answer):
    """Which picture fits best."""

    rankings: list[dict[str, Any]] = Field(default=[], description="per prompt: scores, probabilities and order")
    scores: list[dict[str, Any]] = Field(default=[], description="of a single `prompt`: image and score")
    order: list[str] = Field(default=[], description="of a single `prompt`: images, best first")
