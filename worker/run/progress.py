"""How far a run is, as its job's record shows it."""

from __future__ import annotations

from typing import Any

__all__ = ["Progress"]

_RUNNING_SHARE = 0.95  # of the progress bar; the rest is encoding, upload and commit


class Progress:
    """Noted by the run's own thread, read by others. The fraction never falls."""

    def __init__(self) -> None:
        self._fraction = 0.0
        self._latest: dict[str, Any] = {}
        self._preview: dict[str, Any] | None = None

    def note(self, stage: str, step: int, total: int) -> None:
        """The run took `step` of `total` in this stage."""
        self._fraction = max(self._fraction, _RUNNING_SHARE * min(1.0, step / max(1, total)))
        self._latest = {"fraction": round(self._fraction, 4), "stage": stage, "step": step, "total": total}

    def note_preview(self, preview: dict[str, Any]) -> None:
        """A preview has arrived in the object store; its name, key and step."""
        self._preview = preview

    @property
    def latest(self) -> dict[str, Any]:
        """The last that was noted, with the last preview stored."""
        return self._latest if self._preview is None else {**self._latest, "preview": self._preview}

    @property
    def is_amid_a_stage(self) -> bool:
        """Whether the run has taken steps like the one that is due: some of its latest stage, and not its last one."""
        latest = self._latest
        return "step" in latest and bool(latest["step"] < latest["total"])
