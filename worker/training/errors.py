"""What stops a training stage.

TrainingError
├── DataError        the data set is missing or cannot be fetched
└── HeldOutLeak      the held-out design is among the training pictures
"""

from __future__ import annotations


class TrainingError(Exception):
    """A training stage cannot go on."""


class DataError(TrainingError):
    """The data set is missing, damaged, or cannot be fetched."""


class HeldOutLeak(TrainingError):
    """The held-out design is among the training pictures."""
