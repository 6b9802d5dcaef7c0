"""The group `train`, and options that its commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

__all__ = ["DATA", "data_option", "device_option", "pick_device", "train"]

DATA = Path(".train")

data_option = click.option(
    "--data", type=click.Path(path_type=Path), default=DATA, show_default=True, help="data set folder"
)
device_option = click.option("--device", default=None, help="cpu, cuda, cuda:1; default: cuda if there is one")


class Stages(click.Group):
    """A group whose commands end with one line, not a trace, where a stage cannot go on."""

    def invoke(self, ctx: click.Context) -> Any:
        """As click's, with TrainingError told as a command's error."""
        from worker.training.errors import TrainingError

        try:
            return super().invoke(ctx)
        except TrainingError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Stages)
def train() -> None:
    """Make the embedded models again: data, clip, vqgan, dalle, unclip, eval, card, export, openmoji."""


def pick_device(name: str | None) -> Any:
    """The named device, else CUDA if there is one, else the CPU."""
    import torch

    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    return device
