"""An HTTP layer before the object store that fails as real ones do: 500, 503, resets, bodies spoilt on their way.

It passes requests on as they are, Host header and signature included: the store behind checks what the caller signed.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

__all__ = ["FAULTS", "ObjectFaults"]

FAULTS = ("error_500", "error_503", "reset", "reset_midway", "spoilt", "slow", "silent")
SLOW_BYTES_PER_S = 10_000
SILENT_S = 3.0  # longer than the caller's read time-out in these runs


class ObjectFaults:
    """Listens on a loopback port of its own. `rates`: fault -> share of requests; changed at any time."""

    def __init__(self, upstream_url: str, seed: int, **rates: float) -> None:
        self.rates: dict[str, float] = rates
        self.made: Counter[str] = Counter()
        parts = urlsplit(upstream_url)
        self._upstream = (str(parts.hostname), int(parts.port or 80))
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        layer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """The counter says enough."""

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return lambda: layer._handle(self)
                raise AttributeError(name)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _drawn(self) -> str:
        with self._lock:
            point = self._rng.random()
            for fault, rate in self.rates.items():
                point -= rate
                if point < 0:
                    self.made[fault] += 1
                    return fault
            self.made["passed"] += 1
            return ""

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("Content-Length") or 0)
        fault = self._drawn()
        if fault == "reset_midway":
            request.rfile.read(length // 2)
        if fault in ("reset", "reset_midway"):
            _reset(request)
            return
        body = _read_slowly(request, length) if fault == "slow" else request.rfile.read(length)
        if fault == "silent":
            time.sleep(SILENT_S)
            _reset(request)
        elif fault in ("error_500", "error_503"):
            _answer(request, int(fault[-3:]), b"<Error><Code>InternalError</Code></Error>")
        else:
            self._pass(request, _spoilt(body) if fault == "spoilt" else body)

    def _pass(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        upstream = http.client.HTTPConnection(*self._upstream, timeout=30)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() != "expect"}
            upstream.request(request.command, request.path, body or None, headers)
            answer = upstream.getresponse()
            content = answer.read()
            _answer(request, answer.status, content, answer.getheaders())
        except OSError:
            _reset(request)
        finally:
            upstream.close()


def _answer(
    request: BaseHTTPRequestHandler, status: int, body: bytes, headers: list[tuple[str, str]] | None = None
) -> None:
    request.send_response_only(status)
    skipped = {"transfer-encoding", "connection"}
    named = [(name, value) for name, value in headers or [] if name.lower() not in skipped]
    for name, value in named:
        request.send_header(name, value)
    if "content-length" not in {name.lower() for name, _ in named}:
        request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


def _reset(request: BaseHTTPRequestHandler) -> None:
    """RST instead of FIN."""
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.close_connection = True
    request.connection.close()


def _read_slowly(request: BaseHTTPRequestHandler, length: int) -> bytes:
    body = b""
    while len(body) < length:
        body += request.rfile.read(min(1_000, length - len(body)))
        time.sleep(1_000 / SLOW_BYTES_PER_S)
    return body


def _spoilt(body: bytes) -> bytes:
    """One bit is wrong in the middle."""
    if not body:
        return body
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
