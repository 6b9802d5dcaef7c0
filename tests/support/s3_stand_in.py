"""A small S3 over real HTTP that honours conditional puts, which nanio does not. In memory, one bucket, no signatures
checked, no multipart uploads: enough for LanceDB's small tables, whose commits rest on `If-None-Match: *`."""

from __future__ import annotations

import hashlib
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

__all__ = ["S3StandIn"]


class S3StandIn:
    """Serves from its start to its end as a context. `objects`: what it holds, by key without the bucket."""

    def __init__(self, bucket: str) -> None:
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.bucket = bucket
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """For Settings.s3_endpoint."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: S3StandIn

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    @property
    def _query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    @property
    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/").removeprefix(self.store.bucket).lstrip("/")

    def do_PUT(self) -> None:
        """One object; 412 where it is there and must not be. A copy where its source is named."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        source = self.headers.get("x-amz-copy-source")
        with self.store.lock:
            if self.headers.get("If-None-Match") == "*" and self._key in self.store.objects:
                return self._answer(412, _error("PreconditionFailed"))
            if source is not None:
                body = self.store.objects[unquote(source).lstrip("/").removeprefix(self.store.bucket).lstrip("/")]
            self.store.objects[self._key] = _unchunked(body) if self._is_chunked else body
        return self._answer(200, b"", {"ETag": _etag(body)})

    @property
    def _is_chunked(self) -> bool:
        return "aws-chunked" in self.headers.get("Content-Encoding", "")

    def do_GET(self) -> None:
        """One object or a part of it, or the list of keys."""
        if "list-type" in self._query:
            return self._list()
        with self.store.lock:
            body = self.store.objects.get(self._key)
        if body is None:
            return self._answer(404, _error("NoSuchKey"))
        about = {"ETag": _etag(body), "Last-Modified": formatdate(usegmt=True)}
        span = self.headers.get("Range")
        if span is None:
            return self._answer(200, body, about)
        first, last = span.removeprefix("bytes=").split("-")
        start = int(first) if first else len(body) - int(last)
        stop = min(int(last) + 1, len(body)) if first and last else len(body)
        return self._answer(206, body[start:stop], about | {"Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"})

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        """One object."""
        with self.store.lock:
            self.store.objects.pop(self._key, None)
        self._answer(204, b"")

    def do_POST(self) -> None:
        """Several objects deleted at once."""
        text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if "delete" not in self._query:
            return self._answer(501, _error("NotImplemented"))
        keys = [part.split("</Key>")[0] for part in text.split("<Key>")[1:]]
        with self.store.lock:
            for key in keys:
                self.store.objects.pop(key, None)
        gone = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        return self._answer(200, f"<DeleteResult>{gone}</DeleteResult>".encode())

    def _list(self) -> None:
        prefix, delimiter = (self._query.get(name, [""])[0] for name in ("prefix", "delimiter"))
        after = self._query.get("start-after", [""])[0]
        with self.store.lock:
            found = {key: body for key, body in sorted(self.store.objects.items()) if key.startswith(prefix)}
        items, folders = [], dict[str, None]()
        for key, body in found.items():
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders[prefix + rest.split(delimiter)[0] + delimiter] = None
            elif key > after:
                items.append(
                    f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                    f"<ETag>{escape(_etag(body))}</ETag><Size>{len(body)}</Size></Contents>"
                )
        common = "".join(f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in folders)
        text = f"<ListBucketResult><KeyCount>{len(items)}</KeyCount><IsTruncated>false</IsTruncated>"
        self._answer(200, f"{text}{''.join(items)}{common}</ListBucketResult>".encode())

    def _answer(self, status: int, body: bytes, about: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (about or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


def _unchunked(body: bytes) -> bytes:
    """What boto3 sends in chunks with a checksum behind them: hex size, CRLF, data, CRLF."""
    found, at = b"", 0
    while at < len(body):
        end = body.index(b"\r\n", at)
        size = int(body[at:end].split(b";")[0], 16)
        if not size:
            break
        found += body[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
    return found
