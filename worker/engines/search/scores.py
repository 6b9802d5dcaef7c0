"""From a cosine to the chance that a picture shows what was asked for.

s*cos, with the model's own logit scale s, is compared with the log-mean-exp of s*cos over the collection: how much
likelier than the average picture this one is (Radford et al., 2021, section 2.3). Slope and offset make it a
probability (worker/training/evaluation/calibration.py). A model that was never calibrated has slope 1 and the odds of a
thousand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from worker.checkpoints.calibration import blended
from worker.checkpoints.registry import ModelEntry

__all__ = ["Scale", "scale_of"]

UNMEASURED = (1.0, -math.log(1_000))


@dataclass(frozen=True)
class Scale:
    """One query's. `background`: log-mean-exp of logit_scale * cosine over the collection."""

    logit_scale: float
    slope: float
    offset: float
    background: float

    def score(self, cosine: float) -> float:
        """In (0, 1); grows with the cosine."""
        odds = self.slope * (self.logit_scale * cosine - self.background) + self.offset
        return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0

    def least_cosine(self, score: float) -> float:
        """The cosine of that score; beyond -1 and 1 for 0 and 1."""
        if not 0 < score < 1:
            return math.inf if score >= 1 else -math.inf
        odds = math.log(score / (1 - score))
        return ((odds - self.offset) / self.slope + self.background) / self.logit_scale


def scale_of(entry: ModelEntry, logit_scale: float, background: float, rows: int, *, by_text: bool) -> Scale:
    """For a query about `rows` pictures, by words or by pictures only."""
    measured = (entry.calibration or {}).get("text" if by_text else "image")
    if measured is None:
        return Scale(logit_scale, *UNMEASURED, background)
    slope, offset, usual = measured
    return Scale(logit_scale, slope, offset, blended(background, rows, usual))
