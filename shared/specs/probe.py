"""The operator's canary."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared.specs.types import Spec

__all__ = ["ProbeSpec"]


class ProbeSpec(Spec):
    """An operator's canary: takes steps, sleeps, writes bytes, or fails on purpose. Touches no device."""

    kind: Literal["probe"] = "probe"
    steps: int = Field(default=0, ge=0, le=100_000)
    step_s: float = Field(default=0.0, ge=0, le=60, description="seconds each step sleeps")
    write_bytes: int = Field(default=0, ge=0, le=64 * 2**20, description="size of the artifact `probe.bin`; 0 for none")
    fail: Literal["never", "once", "always", "permanently"] = Field(
        default="never", description="once and always are retryable errors, permanently is not"
    )
