"""Collections and what is asked of them: the part of the client that searches."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from api.client.errors import JobFailed
from api.client.job import Job
from api.client.transport import LONGEST_WAIT_S, Transport

__all__ = ["CollectionCalls", "Picture"]

Picture = Path | str | Mapping[str, Any]  # a file, an id or URL, or {"image" | "url", "metadata"}
Rows = list[dict[str, Any]]
ARCHIVES = {".zip": "application/zip", ".tar": "application/x-tar"}
CHUNK_BYTES = 1 << 20
ARCHIVE_PATIENCE_S = 120.0  # beyond a call's usual time: the server looks an archive through and stores it
URLS = ("http://", "https://")


class CollectionCalls(ABC):
    """Mixed into DreamqueueClient. Calls that start a job return it; wait for it or watch it."""

    _transport: Transport

    @abstractmethod
    def wait(self, job_id: str, *, timeout_s: float | None = None) -> Job:
        """The job once it has ended."""

    @abstractmethod
    def upload_image(self, image: Path | bytes) -> str:
        """A picture's id."""

    # --- collections ---------------------------------------------------------------------------------------------

    def create_collection(self, name: str, *, model: str | None = None, description: str = "") -> dict[str, Any]:
        """A collection for pictures as that CLIP sees them; again with the same model, it is the same collection.
        Raises Conflicting where it exists with another model."""
        body = _given(name=name, model=model, description=description or None)
        return self._call("POST", "/v1/collections", json=body)

    def collections(self) -> Rows:
        """Yours, oldest first."""
        found: Rows = self._call("GET", "/v1/collections")["collections"]
        return found

    def collection(self, name: str) -> dict[str, Any]:
        """One of them: model, rows, bytes, the types of its metadata fields. Raises Missing."""
        return self._call("GET", _path(name))

    def delete_collection(self, name: str) -> None:
        """Its vectors and metadata are gone at once; the pictures themselves stay as long as uploads do."""
        self._transport.answer("DELETE", _path(name))

    # --- pictures in and out -------------------------------------------------------------------------------------

    def add_images(self, name: str, pictures: Iterable[Picture]) -> Job:
        """Put up to 1,000 pictures in: files are uploaded, one by one, ids and URLs named. An archive is quicker."""
        return self._start(f"{_path(name)}/images", json={"images": [self._item(picture) for picture in pictures]})

    def add_archive(self, name: str, archive: Path) -> Job:
        """Put the pictures of a .zip or .tar in, with the metadata table at its root (metadata.csv, .json, .jsonl)."""
        headers = {
            "Content-Type": ARCHIVES.get(archive.suffix.lower(), "application/octet-stream"),
            "Content-Length": str(archive.stat().st_size),
        }
        pieces = _Pieces(archive)
        return self._start(f"{_path(name)}/images", content=pieces, headers=headers, wait_s=ARCHIVE_PATIENCE_S)

    def add_job(self, name: str, job_id: str) -> Job:
        """Put in what a job of yours made."""
        return self._start(f"{_path(name)}/images", json={"job": job_id})

    def remove_images(self, name: str, ids: Sequence[str] = (), *, filter: Mapping[str, Any] | None = None) -> Job:
        """Take pictures out: those named, or all that match."""
        return self._start(f"{_path(name)}/images/delete", json=_given(ids=list(ids) or None, filter=filter))

    def reembed(self, name: str, model: str) -> Job:
        """See all its pictures anew with another CLIP; the old vectors answer until then."""
        return self._start(f"{_path(name)}/reembed", json={"model": model})

    # --- questions -----------------------------------------------------------------------------------------------

    def search(
        self,
        collection: str,
        text: str | None = None,
        *,
        image: Path | str | None = None,
        terms: Iterable[Mapping[str, Any]] = (),
        wait_s: float = 30.0,
        **fields: Any,
    ) -> dict[str, Any]:
        """The pictures nearest to a text, a picture, or weighted terms: `hits`, best first, and `next_cursor`.

        A term is {"text" | "image" | "id" | "embedding", "weight"}. `fields`: filter, limit, cursor, min_score,
        min_cosine, dedup, diversity.
        """
        body = _given(
            collection=collection,
            text=text,
            image=self._named(image),
            terms=[dict(term) for term in terms] or None,
            **fields,
        )
        return self._answered("/v1/search", body, wait_s)

    def classify(
        self,
        labels: Sequence[str],
        *,
        images: Iterable[Path | str] = (),
        collection: str | None = None,
        wait_s: float = 30.0,
        **fields: Any,
    ) -> dict[str, Any]:
        """Probabilities of labels, per picture named or of a collection. `fields`: filter, templates, top_k,
        other_below, model."""
        named = [self._named(image) for image in images]
        body = _given(labels=list(labels), images=named or None, collection=collection, **fields)
        return self._answered("/v1/classify", body, wait_s)

    def rank(
        self, images: Iterable[Path | str], prompts: Sequence[str] | str, *, wait_s: float = 30.0, **fields: Any
    ) -> dict[str, Any]:
        """How well each picture fits one prompt (`scores`, `order`) or each of many (`rankings`)."""
        asked = {"prompt": prompts} if isinstance(prompts, str) else {"prompts": list(prompts)}
        body = _given(images=[self._named(image) for image in images], **asked, **fields)
        return self._answered("/v1/rank", body, wait_s)

    def duplicates(self, name: str, *, threshold: float | None = None, filter: Mapping[str, Any] | None = None) -> Job:
        """Find pictures that are nearly the same."""
        return self._start(f"{_path(name)}/duplicates", json=_given(threshold=threshold, filter=filter))

    def groups(
        self,
        name: str,
        *,
        k: int | None = None,
        labels: Sequence[str] = (),
        seed: int | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> Job:
        """Sort a collection into k groups of pictures that are alike."""
        body = _given(k=k, labels=list(labels) or None, seed=seed, filter=filter)
        return self._start(f"{_path(name)}/groups", json=body)

    # -------------------------------------------------------------------------------------------------------------

    def _item(self, picture: Picture) -> dict[str, Any]:
        if isinstance(picture, Mapping):
            return {name: self._named(value) if name == "image" else value for name, value in picture.items()}
        if isinstance(picture, str) and picture.startswith(URLS):
            return {"url": picture}
        return {"image": self._named(picture)}

    def _named(self, image: Path | str | None) -> str | None:
        return self.upload_image(image) if isinstance(image, Path) else image

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._transport.json(method, path, **options)
        return answer

    def _start(self, path: str, *, headers: Mapping[str, str] | None = None, **options: Any) -> Job:
        headers = {"Idempotency-Key": str(uuid.uuid4()), **(headers or {})}
        return Job(self._call("POST", path, headers=headers, **options))

    def _answered(self, path: str, body: dict[str, Any], wait_s: float) -> dict[str, Any]:
        """What the job behind a question made, whether it is ready at once or not."""
        wait_s = min(wait_s, LONGEST_WAIT_S)
        headers = {"Idempotency-Key": str(uuid.uuid4()), "Prefer": f"wait={wait_s:.0f}"}
        answer = self._transport.answer("POST", path, wait_s=wait_s, headers=headers, json=body)
        found: dict[str, Any] = answer.json()
        if answer.status_code != 202:
            return found
        job = self.wait(found["id"])
        if job.state != "succeeded":
            raise JobFailed(job)
        return {"job_id": job.id, **(job.result or {}), "timings": job.data["timings"], "urls": job.data["urls"]}


class _Pieces:
    """A file's bytes, from the beginning each time: a request may be repeated."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                yield piece


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _path(name: str) -> str:
    return f"/v1/collections/{name}"
