"""What goes wrong between a file and a model.

ModelUnavailable (shared.errors)
└── CheckpointError         root of this package: this worker cannot have that model
    ├── UnknownModel        the registry has no such id
    ├── BadRegistry         the registry or a model's config file is missing, no JSON, or lacks a field
    ├── DigestMismatch      a file's sha256 differs from the registry's: damaged, or swapped
    └── KeyMismatch         the weights' names or shapes are not the model's
"""

from __future__ import annotations

from shared.errors import ModelUnavailable


class CheckpointError(ModelUnavailable):
    """This worker cannot have that model."""


class UnknownModel(CheckpointError):
    """The registry has no such id."""


class BadRegistry(CheckpointError):
    """The registry, or a model's config file, is missing or wrong."""


class DigestMismatch(CheckpointError):
    """A file's sha256 differs from the registry's."""


class KeyMismatch(CheckpointError):
    """The weights' names or shapes are not the model's."""
