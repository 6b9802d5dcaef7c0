"""How a search's score is fitted: what the model's own logits say of a match, as a probability that holds.

A query's logits s*cos are compared with their log-mean-exp over the collection, the background: x = s*cos - background
is how much more likely than the average picture this one is (Radford et al., 2021, section 2.3: the softmax over a
batch). A logistic regression of "shows what was asked for" on x gives slope and offset (Platt, "Probabilistic Outputs
for Support Vector Machines", 1999). Fitted where it matters, on each query's CANDIDATES best, over half of the held-out
design's things; judged over all pictures with the other half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from worker.checkpoints.calibration import blended
from worker.models.clip.clip import Clip
from worker.training.data.pictures import Pictures

__all__ = ["Calibration", "calibrate", "fit", "log_odds", "reliability"]

Floats = NDArray[np.float64]
ROUNDS = 50  # of Newton's method; it needs about ten
BINS = 10
CANDIDATES = 20
CHUNK = 256  # pictures or names per forward pass


@dataclass(frozen=True)
class Calibration:
    """score = sigmoid(slope * x + offset); `background` is a query's mean one."""

    slope: float
    offset: float
    background: float

    def scores(self, x: Floats) -> Floats:
        """Probabilities of log-odds (N,)."""
        return np.asarray(1 / (1 + np.exp(-(self.slope * x + self.offset))))


def log_odds(logits: Floats) -> tuple[Floats, float]:
    """x of every (query, picture), of logits (Q, N), as a search sees it; and the mean background."""
    top = logits.max(1, keepdims=True)
    own = (top + np.log(np.exp(logits - top).mean(1, keepdims=True)))[:, 0]
    usual = float(own.mean())
    background = np.array([blended(float(one), logits.shape[1], usual) for one in own])
    return logits - background[:, None], usual


def fit(x: Floats, is_match: NDArray[np.bool_], background: float) -> Calibration:
    """Slope and offset of greatest likelihood for log-odds (N,), by Newton's method."""
    weights = np.zeros(2)
    for _ in range(ROUNDS):
        chance = 1 / (1 + np.exp(-(weights[0] * x + weights[1])))
        error, spread = chance - is_match, chance * (1 - chance) + 1e-12
        gradient = np.array([(error * x).sum(), error.sum()])
        hessian = np.array([[(spread * x * x).sum(), (spread * x).sum()], [(spread * x).sum(), spread.sum()]])
        step = np.linalg.solve(hessian, gradient)
        weights -= step
        if abs(step).max() < 1e-9:
            break
    return Calibration(float(weights[0]), float(weights[1]), background)


def reliability(scores: Floats, is_match: NDArray[np.bool_]) -> list[tuple[float, float, int]]:
    """(mean score, share of matches, how many) of the scores in tenths; empty ones are left out."""
    found = []
    for low in np.arange(BINS) / BINS:
        inside = (scores >= low) & (scores < low + 1 / BINS)
        if inside.any():
            found.append((float(scores[inside].mean()), float(is_match[inside].mean()), int(inside.sum())))
    return found


@torch.inference_mode()
def calibrate(
    clip: Clip, held_out: Pictures, others: Pictures, seed: int = 0
) -> dict[str, tuple[Calibration, list[tuple[float, float, int]]]]:
    """`text`: the names of held-out pictures look for them; `image`: pictures of other designs do. With reliability."""
    names = [row.name for row in held_out.rows]
    first = {row.name: number for number, row in reversed(list(enumerate(others.rows)))}
    pictures = _seen(clip, held_out.images)
    drawn = [name for name in names if name in first]
    queries = {
        "text": (names, torch.cat([clip.encode_text(names[at : at + CHUNK]) for at in range(0, len(names), CHUNK)])),
        "image": (drawn, _seen(clip, others.images[[first[name] for name in drawn]])),
    }
    found = {}
    for kind, (asked, vectors) in queries.items():
        x, background = log_odds((clip.logit_scale * vectors @ pictures.T).double().cpu().numpy())
        same = np.array(asked)[:, None] == np.array(names)[None, :]
        order = np.random.default_rng(seed).permutation(len(asked))
        fitted, judged = order[: len(order) // 2], order[len(order) // 2 :]
        best = np.argsort(-x[fitted], axis=1)[:, :CANDIDATES]
        near = np.take_along_axis(x[fitted], best, 1).ravel()
        made = fit(near, np.take_along_axis(same[fitted], best, 1).ravel(), background)
        found[kind] = (made, reliability(made.scores(x[judged].ravel()), same[judged].ravel()))
    return found


def _seen(clip: Clip, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([clip.encode_image(part.float() / 255) for part in images.split(CHUNK)])
