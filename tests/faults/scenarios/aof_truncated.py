"""kill -9 of Redis in the middle of a write: the append-only file ends in half a command, which nobody was promised."""

from __future__ import annotations

from pathlib import Path

from tests.faults.report import Row
from tests.faults.storm import Run, Storm

__all__ = ["run"]

COMMAND = b"*4\r\n$4\r\nHSET\r\n$10\r\ndq:job:x:y\r\n$5\r\nstate\r\n$9\r\nsucceeded\r\n"


def run(run: Run) -> Row:
    """10 kills, each followed by half a command at the end of the file; 200 jobs."""
    kills, jobs = run.pick(10, 1), run.pick(200, 30)
    with Storm.of(run, per_s=8) as storm:
        redis = storm.cluster.redis

        def tear() -> None:
            redis.kill()
            newest = max(Path(redis.folder).rglob("*.aof"), key=lambda path: path.stat().st_mtime)
            with newest.open("ab") as file:
                file.write(COMMAND[: storm.rng.randint(1, len(COMMAND) - 1)])
            redis.start()

        storm.rage(tear, faults=kills, jobs=jobs, every_s=(1.0, 2.5))
        return Row.of("aof_truncated", run.seed, storm.verdict(), kills=kills, fenced=storm.fenced())
