"""The shipped models: figures on the held-out design, of drawn pictures, and the time a job takes through the system.

Needs the data set (`dreamqueue train data`, about a minute and the npm registry); it is made when missing. With a judge
among the weights it draws 450 names, about half an hour of one idle core; `dreamqueue train eval --names 20` does
with fewer. What cannot be measured is reported as a miss with its reason.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from api.client.client import DreamqueueClient
from deploy.local.servers import free_port
from deploy.local.stack import Stack, StackOptions
from tests.benchmarks.report import Report
from worker.checkpoints.registry import ModelRegistry
from worker.training.commands.group import DATA
from worker.training.data.pictures import build
from worker.training.evaluation.measure import FIGURES
from worker.training.evaluation.report import open_models
from worker.training.evaluation.report import report as measure

NAMES = 200  # of the judged pictures
APPLE = {"prompts": ["a red apple"], "seed": 0}
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "dalle_16_keep_4_s": ("dalle", APPLE | {"n": 16, "keep": 4}),
    "unclip_4_s": ("unclip", APPLE | {"n": 4}),
    "vqgan_clip_200_s": ("vqgan_clip", APPLE | {"prompts": "a red apple", "iterations": 200}),
}


def run(report: Report) -> None:
    """Seconds of three jobs on an otherwise idle stack, then the figures."""
    _time_jobs(report)
    if not (DATA / "heldout.zip").exists():
        build(DATA, share_alike=False)
    document = measure(DATA, open_models(None, torch.device("cpu")), NAMES, print)
    for name, value in document["figures"].items():
        figure = FIGURES.get(name)
        if figure is None:
            report.add(name, value, "%")
        else:
            report.add(name, value, figure.unit, at_least=figure.at_least, at_most=figure.at_most)
    for name, reason in document["not_measured"].items():
        _miss(report, name, reason)


def _miss(report: Report, name: str, reason: str) -> None:
    figure = FIGURES[name]
    report.miss(name, figure.unit, reason, at_least=figure.at_least, at_most=figure.at_most)


def _time_jobs(report: Report) -> None:
    shipped = {model_id.removeprefix("emoji-") for model_id in ModelRegistry.load().entries}
    with (
        tempfile.TemporaryDirectory(prefix="dq-bench-") as folder,
        Stack(StackOptions(Path(folder), free_port()), say=print) as stack,
        DreamqueueClient(stack.url, stack.api_key) as client,
    ):
        for name, (kind, input_) in JOBS.items():
            absent = sorted(set(FIGURES[name].of) - shipped)
            if absent:
                _miss(report, name, f"no emoji-{', '.join(absent)} among the models")
            else:
                _seconds(report, client, name, kind, input_)


def _seconds(report: Report, client: DreamqueueClient, name: str, kind: str, input_: dict[str, Any]) -> None:
    """Run seconds of the second of two such jobs: the first one warms up."""
    for _ in range(2):
        job = client.wait(client.submit(kind, input_).id, timeout_s=900)
        assert job.state == "succeeded", job.error
    report.add(name, job.data["timings"]["run_s"], "s", at_most=FIGURES[name].at_most)
