"""One bar over all the archives that a folder is sent in."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from api.client.client import DreamqueueClient
from api.client.errors import JobFailed
from api.client.files.packing import Tally
from api.client.job import Event, Job

__all__ = ["UploadBar"]


class UploadBar:
    """On stderr; a context manager."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=console.is_terminal,
        )
        self._line = self._progress.add_task("looking", total=None)
        self._done = 0
        self._total: int | None = None

    def __enter__(self) -> UploadBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def expect(self, pictures: int) -> None:
        """How many there are in all."""
        self._total = pictures
        self._progress.update(self._line, total=pictures)

    def say(self, what: str) -> None:
        """What is being done."""
        self._progress.update(self._line, description=what)

    def follow(self, client: DreamqueueClient, job: Job, pictures: int | None) -> Job:
        """Watch a job of so many pictures to its end. Raises JobFailed."""
        self._watch(client.watch(job.id), pictures)
        ended = client.get(job.id)
        if ended.state != "succeeded":
            raise JobFailed(ended)
        tally = Tally()
        tally.add(ended)
        self._done += tally.seen
        self._progress.update(self._line, completed=self._done)
        return ended

    def _watch(self, events: Iterable[Event], pictures: int | None) -> None:
        for event in events:
            data = event.data
            if event.type != "progress":
                self.say(str(data.get("state") or event.type))
                continue
            self.say(str(data.get("stage") or "running"))
            if pictures is not None:
                self._progress.update(self._line, completed=self._done + (data.get("fraction") or 0.0) * pictures)
            elif data.get("total"):
                self._progress.update(self._line, completed=data["step"], total=data["total"])
