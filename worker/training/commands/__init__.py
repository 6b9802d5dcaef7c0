"""The command group `train`: one command per stage: data, clip, vqgan, dalle, unclip, eval, card, export, openmoji.

torch is imported when a command runs, not when the command line lists what there is.
"""

from worker.training.commands import data, results, stages  # each hangs its commands on the group
from worker.training.commands.group import train

__all__ = ["data", "results", "stages", "train"]
