"""A kind that another package brings: a picture of one colour per word. All that such a package needs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shared.specs.kinds import Kind, Spec

__all__ = ["KIND", "ToySpec"]


class ToySpec(Spec):
    """Names of colours in, as many pictures out."""

    kind: Literal["toy"] = "toy"
    prompts: Annotated[list[str], Field(min_length=1, max_length=8)]
    size: int = Field(default=16, ge=8, le=64, description="pixels of each side")
    seed: int | None = Field(default=None, ge=0)


KIND = Kind(ToySpec, "toy_kind.engine:build", {"prompts": ["red", "blue"]}, makes_pictures=True, is_default=False)
