"""Which index serves: by the url in the settings."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from shared.errors import VectorsUnfit
from shared.settings import Settings
from worker.vectors.index import VectorDatabase

__all__ = ["check_database", "open_database"]


def check_database(settings: Settings) -> None:
    """Whether the index at `settings.vectors_url` may be shared by workers, without opening it. Raises VectorsUnfit,
    and VectorsUnavailable where a server does not answer."""
    url = settings.vectors_url
    scheme = urlsplit(url).scheme
    if scheme == "s3":
        from worker.vectors.stores.bucket import check_conditional_puts

        check_conditional_puts(settings, _prefix(url))
    elif scheme not in {"http", "https"}:
        _folder(url)


def open_database(settings: Settings) -> VectorDatabase:
    """The index at `settings.vectors_url`: a folder, s3://PREFIX in the settings' bucket, or a Qdrant server's http(s)
    address. To be called after a process has forked. Raises VectorsUnfit where it cannot be shared,
    VectorsUnavailable."""
    check_database(settings)
    url = settings.vectors_url
    scheme = urlsplit(url).scheme
    if scheme in {"http", "https"}:
        from worker.vectors.stores.qdrant import QdrantDatabase  # takes half a second to import

        return QdrantDatabase.at(url, settings.vectors_api_key)
    from worker.vectors.stores.lance import LanceDatabase  # takes two seconds to import

    if scheme == "s3":
        from worker.vectors.stores.bucket import storage_options

        return LanceDatabase(f"s3://{settings.s3_bucket}/{_prefix(url)}", storage_options(settings))
    return LanceDatabase(str(_folder(url)))


def _prefix(url: str) -> str:
    return url.removeprefix("s3://").strip("/")


def _folder(url: str) -> Path:
    if not url:
        raise VectorsUnfit("DREAMQUEUE_VECTORS_URL is not set: this worker serves no collections")
    folder = Path(url.removeprefix("file://"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VectorsUnfit(f"DREAMQUEUE_VECTORS_URL: {folder}: {error.strerror}") from error
    return folder.resolve()
