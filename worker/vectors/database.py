"""Which index serves: by the url in the settings."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from shared.errors import VectorsUnavailable
from shared.settings import Settings
from worker.vectors.index import VectorDatabase

__all__ = ["open_database"]


def open_database(settings: Settings) -> VectorDatabase:
    """The index at `settings.vectors_url`: a folder, s3://PREFIX in the settings' bucket, or a Qdrant server's http(s)
    address. To be called after a process has forked. Raises VectorsUnavailable where it cannot be shared."""
    url = settings.vectors_url
    scheme = urlsplit(url).scheme
    if not url:
        raise VectorsUnavailable("DREAMQUEUE_VECTORS_URL is not set: this worker serves no collections")
    if scheme == "s3":
        return _in_bucket(settings, url)
    if scheme in {"http", "https"}:
        from worker.vectors.qdrant import QdrantDatabase  # half a second, which only its users should wait for

        return QdrantDatabase.at(url, settings.vectors_api_key)
    return _in_folder(Path(url.removeprefix("file://")))


def _in_folder(folder: Path) -> VectorDatabase:
    from worker.vectors.lance import LanceDatabase  # two seconds, which only its users should wait for

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VectorsUnavailable(f"DREAMQUEUE_VECTORS_URL: {folder}: {error.strerror}") from error
    return LanceDatabase(str(folder.resolve()))


def _in_bucket(settings: Settings, url: str) -> VectorDatabase:
    from worker.vectors.bucket import check_conditional_puts, storage_options
    from worker.vectors.lance import LanceDatabase

    prefix = url.removeprefix("s3://").strip("/")
    check_conditional_puts(settings, prefix)
    return LanceDatabase(f"s3://{settings.s3_bucket}/{prefix}", storage_options(settings))
