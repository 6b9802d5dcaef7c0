"""Archives as a worker reads them: member by member, within the limits, whatever they claim."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from PIL import Image

from shared.errors import InvalidInput, UnreadableImage
from shared.records.job import JobRecord, JobState
from shared.specs.archives import MAX_TABLE_BYTES
from shared.storage import ObjectStore, StoredObject
from tests.support.archives import tarred, zipped
from worker.collections.sources import Archive, by_job
from worker.transfer.inputs import decode_picture


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


class OneObject:
    """An object store that holds one archive."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def stream(self, key: str) -> tuple[StoredObject, Iterator[bytes]]:
        return StoredObject(key, len(self.body), "", ""), iter([self.body[:100], self.body[100:]])


def opened(body: bytes, max_bytes: int = 10_000, form: str = "") -> Archive:
    form = form or ("zip" if body.startswith(b"PK") else "tar")
    return Archive(cast(ObjectStore, OneObject(body)), f"jobs/archive.{form}", max_bytes)


def decode(body: bytes, ref: str) -> Image.Image:
    return decode_picture(body, ref, 1_000_000)


MEMBERS = {
    "b.png": picture("red"),
    "sub/a.png": picture("blue"),
    "metadata.jsonl": b'{"file": "b.png", "n": 3}\n',
    "__MACOSX/b.png": b"x",
    "LICENSE.txt": b"free",
    "text.png": b"text",
}


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_members_by_name_with_their_metadata(pack: Callable[[dict[str, bytes]], bytes]) -> None:
    body = pack(MEMBERS)
    with opened(body) as archive:
        sources = archive.pictures(decode)
        assert [source.item for source in sources] == ["b.png", "sub/a.png", "text.png"]
        assert sources[0].metadata == {"n": 3.0}
        first, again = sources[0].load(), sources[0].load()
        assert first.id == again.id
        assert first.body == MEMBERS["b.png"]
        assert sources[1].load().image.getpixel((0, 0)) == (0, 0, 255)
        with pytest.raises(UnreadableImage, match=r"text\.png cannot be decoded: it is no PNG"):
            sources[2].load()


def test_what_is_tar_and_zip_at_once_is_read_as_the_api_checked_it() -> None:
    """The API looks at the start of a file, zipfile at its end: nobody has checked the members of the other form."""
    inner = zipped({"../../evil.png": picture("red"), "metadata.csv": b"\n" * 1_000_000}, zipfile.ZIP_DEFLATED)
    both = tarred({"good.png": picture("blue")}) + inner
    assert zipfile.is_zipfile(io.BytesIO(both))
    with opened(both, form="tar") as archive:
        assert [source.item for source in archive.pictures(decode)] == ["good.png"]
    zip_in_front = zipped({"good.png": picture("blue")})
    with opened(zip_in_front, form="zip") as archive:
        assert [source.item for source in archive.pictures(decode)] == ["good.png"]
    with pytest.raises(InvalidInput, match="cannot be read"):
        opened(zip_in_front, form="tar")


@pytest.mark.parametrize("pack", [lambda members: zipped(members, zipfile.ZIP_DEFLATED), tarred])
def test_a_table_that_grew_since_is_not_unpacked(pack: Callable[[dict[str, bytes]], bytes]) -> None:
    body = pack({"a.png": picture("red"), "metadata.csv": b"\n" * (MAX_TABLE_BYTES + 1)})
    with opened(body) as archive, pytest.raises(UnreadableImage, match="more than"):
        archive.pictures(decode)


def test_a_member_larger_than_a_picture_may_be_is_not_unpacked() -> None:
    with opened(zipped({"bomb.png": b"\0" * 5_000_000}, zipfile.ZIP_DEFLATED)) as archive:
        (source,) = archive.pictures(decode)
        with pytest.raises(UnreadableImage, match="more than 10000 bytes"):
            source.load()


def test_a_damaged_member_is_its_own_error() -> None:
    body = bytearray(zipped({"a.png": picture("red"), "b.png": picture("green")}, zipfile.ZIP_DEFLATED))
    body[60] ^= 255  # in the first member's data
    with opened(bytes(body)) as archive:
        broken, whole = archive.pictures(decode)
        with pytest.raises(UnreadableImage, match=r"a\.png cannot be unpacked"):
            broken.load()
        assert whole.load().image.size == (8, 8)


def test_what_is_no_archive_is_refused_and_nothing_is_left(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InvalidInput, match="cannot be read"):
        opened(b"neither zip nor tar" * 100)
    assert list(tmp_path.iterdir()) == []


def test_a_jobs_pictures_tell_where_they_are_from() -> None:
    images = [
        {"name": "000.png", "prompt": "a cat", "seed": 5, "index": 1, "score": 0.25},
        {"name": "001.png", "prompt": "a cat", "seed": 2**60, "index": 0, "score": None},
    ]
    job_id = "6f1f0a3e-0000-4000-8000-000000000001"
    record = JobRecord(
        id=job_id, tenant="t", kind="dalle", pool="p", spec={}, state=JobState.SUCCEEDED, priority="normal", attempt=1,
        failures=0, losses=0, created_at_ms=0, queued_at_ms=0,
        result={"images": images, "models": [{"id": "emoji-dalle"}]},
    )  # fmt: skip
    first, second = by_job(record)
    assert first.image == f"{job_id}/000.png"
    assert first.metadata == {
        "prompt": "a cat",
        "kind": "dalle",
        "model": "emoji-dalle",
        "job": job_id,
        "seed": 5.0,
        "index": 1.0,
        "score": 0.25,
    }
    assert "seed" not in second.metadata  # no float holds it
    assert "score" not in second.metadata


def test_the_longest_prompt_fits_beside_the_rest() -> None:
    job_id = "6f1f0a3e-0000-4000-8000-000000000001"
    record = JobRecord(
        id=job_id, tenant="t", kind="dalle", pool="p", spec={}, state=JobState.SUCCEEDED, priority="normal", attempt=1,
        failures=0, losses=0, created_at_ms=0, queued_at_ms=0,
        result={"images": [{"name": "0.png", "prompt": "\N{CAT FACE}" * 1_000, "seed": 1, "index": 0}]},
    )  # fmt: skip
    (item,) = by_job(record)
    assert set(str(item.metadata["prompt"])) == {"\N{CAT FACE}"}


def test_a_damaged_exif_block_is_that_pictures_error() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "WEBP", exif=b"Exif\0\0II*\0")
    with pytest.raises(UnreadableImage):
        decode(buffer.getvalue(), "x")
