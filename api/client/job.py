"""A job as the client holds it: the server's JSON, with names for what one asks of it most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["FINAL_STATES", "Event", "Job"]

FINAL_STATES = frozenset({"succeeded", "failed", "cancelled", "expired"})


@dataclass(frozen=True)
class Event:
    """One event of a job. `id` is empty where it was made up from polling."""

    id: str
    type: str  # queued, started, progress, preview, log, cancelling, paused, resumed, finished
    data: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A snapshot; read it again with client.get(job.id)."""

    data: dict[str, Any]

    @property
    def id(self) -> str:
        """Its UUID."""
        return str(self.data["id"])

    @property
    def kind(self) -> str:
        """dalle, vqgan_clip, unclip, rank, classify, search, index and so on."""
        return str(self.data["kind"])

    @property
    def state(self) -> str:
        """queued, running, succeeded, failed, cancelled or expired."""
        return str(self.data["state"])

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL_STATES

    @property
    def is_paused(self) -> bool:
        """Whether it stands still until it is resumed, or is about to."""
        return bool(self.data["paused"])

    @property
    def progress(self) -> dict[str, Any]:
        """fraction, stage, step, total, preview_url; each may be None."""
        return dict(self.data["progress"])

    @property
    def result(self) -> dict[str, Any] | None:
        """What it made."""
        found: dict[str, Any] | None = self.data["result"]
        return found

    @property
    def images(self) -> list[dict[str, Any]]:
        """Its pictures, best first: url, name, seed, score, width, height, bytes, sha256, prompt."""
        return list((self.result or {}).get("images") or [])

    @property
    def files(self) -> list[dict[str, Any]]:
        """What else it stored."""
        return list((self.result or {}).get("files") or [])

    @property
    def error(self) -> dict[str, Any] | None:
        """code, message, retryable; of the last attempt that failed."""
        found: dict[str, Any] | None = self.data["error"]
        return found
