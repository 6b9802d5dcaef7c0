"""Outputs on disk until they are stored: whole or not at all, found again, and never lost for want of disk."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from shared.errors import NotFound
from shared.records.job import Claim
from tests.unit.worker.test_run_context import claim
from worker.transfer.encode import Artifact, EncodedOutput
from worker.transfer.spool import Spool

ENDED, GOING, GONE = "ended", "going", "gone"


class Records:
    """A store that knows how jobs stand."""

    def get(self, _tenant: str, job_id: str) -> object:
        if job_id.startswith(GONE):
            raise NotFound(job_id)

        class Record:
            is_final = job_id.startswith(ENDED)

        return Record()


def again(job_id: str = "j") -> Claim:
    """The job's second attempt."""
    return replace(claim(job_id=job_id), attempt=2)


def spool(folder: Path | str, max_bytes: int = 10**6) -> Spool:
    return Spool(str(folder), max_bytes, Records())  # type: ignore[arg-type]


def output(size: int = 10) -> EncodedOutput:
    picture = Artifact("000.png", bytes(range(256))[:size], "image/png", {"prompt": "a\n☃", "score": 0.25})
    return EncodedOutput(
        [picture], [Artifact("f", b"\n\n", "text/plain", {}), Artifact("e", b"", "x/y", {})], {"k": [1]}
    )


def test_another_process_of_the_host_finds_it_whole(tmp_path: Path) -> None:
    spool(tmp_path).put(claim(), output())
    assert spool(tmp_path).get(again()) == output()
    assert spool(tmp_path).get(again(job_id="other")) is None


def test_it_is_kept_until_the_job_has_ended(tmp_path: Path) -> None:
    one = spool(tmp_path)
    one.put(claim(), output())
    one.finished(claim(), has_ended=False)
    assert one.get(again()) == output()
    one.finished(claim(), has_ended=True)
    assert one.get(again()) is None
    assert list(tmp_path.iterdir()) == []


def test_who_ends_the_job_cleans_up_after_the_other(tmp_path: Path) -> None:
    spool(tmp_path).put(claim(), output())
    spool(tmp_path).finished(again(), has_ended=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "half"])
def test_what_is_damaged_is_not_used(tmp_path: Path, damage: str) -> None:
    spool(tmp_path).put(claim(), output())
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    damaged = {"cut": content[:-1], "flipped": content[:-3] + b"x" + content[-2:], "empty": b"", "half": content[:40]}
    path.write_bytes(damaged[damage])
    assert spool(tmp_path).get(again()) is None


class TestWithoutPlace:
    """The disk is full, or no folder can be made."""

    @pytest.fixture(params=["bounded", "no folder"])
    def full(self, request: pytest.FixtureRequest, tmp_path: Path) -> Spool:
        if request.param == "bounded":
            return spool(tmp_path, max_bytes=100)
        (tmp_path / "file").touch()
        return spool(tmp_path / "file" / "spool")

    def test_nothing_is_lost_and_nothing_more_is_claimed(self, full: Spool) -> None:
        assert not full.is_full
        full.put(claim(), output())
        assert full.is_full
        assert full.get(again()) == output()
        full.finished(claim(), has_ended=True)
        assert not full.is_full
        assert full.get(again()) is None

    def test_a_run_that_gave_up_does_not_block_for_ever(self, full: Spool) -> None:
        full.put(claim(), output())
        full.finished(claim(), has_ended=False)
        assert not full.is_full
        assert full.get(again()) == output()  # for the job's next attempt here

    def test_the_oldest_of_those_goes_first(self, full: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("worker.transfer.spool.MEMORY_BYTES", 2 * output().bytes)
        for job_id in ("a", "b", "c"):
            full.put(claim(job_id=job_id), output())
            full.finished(claim(job_id=job_id), has_ended=False)
        assert [full.get(again(job_id=job_id)) is not None for job_id in ("a", "b", "c")] == [False, True, True]


def test_without_a_folder_memory_is_the_place(tmp_path: Path) -> None:
    memory = spool("")
    memory.put(claim(), output())
    assert not memory.is_full
    assert memory.get(again()) == output()


def test_a_disk_that_is_full_in_the_middle_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_short(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:7])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", cut_short)
    one = spool(tmp_path)
    one.put(claim(), output())
    assert one.is_full
    assert list(tmp_path.iterdir()) == []


def test_outputs_of_jobs_that_ended_elsewhere_are_swept_out(tmp_path: Path) -> None:
    one = spool(tmp_path)
    for job_id in (ENDED, GOING, GONE):
        one.put(claim(job_id=job_id), output())
    (tmp_path / "x.1.half").touch()
    one.sweep()
    assert [one.get(again(job_id=job_id)) is not None for job_id in (ENDED, GOING, GONE)] == [False, True, False]
    assert (tmp_path / "x.1.half").exists()  # it may still be written


def test_outputs_in_memory_are_swept_out_too() -> None:
    memory = spool("")
    for job_id in (ENDED, GOING, GONE):
        memory.put(claim(job_id=job_id), output())
        memory.finished(claim(job_id=job_id), has_ended=False)
    memory.sweep()
    assert [memory.get(again(job_id=job_id)) is not None for job_id in (ENDED, GOING, GONE)] == [False, True, False]


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    others = {"a.out": b"mine", "b.out": b"", "c.out": b"dreamqueue-output-2 x\n{}\n", "notes.txt": b"{}"}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (0, 0))
    torn = tmp_path / "x.1.half"
    torn.touch()
    os.utime(torn, (0, 0))
    spool(tmp_path).sweep()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == others
