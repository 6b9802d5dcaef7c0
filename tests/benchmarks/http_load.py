"""A small closed-loop load generator in a process of its own: keep-alive sockets, one thread each, bounded in time.

Bare sockets, so that the generator costs the server's cores as little as possible. Only ever talks to loopback.
"""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Load", "request_bytes", "run_load"]


@dataclass(frozen=True)
class Load:
    """What a run saw. `times_s` are the times of good answers, sorted."""

    times_s: list[float]
    errors: int
    wall_s: float

    @property
    def per_s(self) -> float:
        """Good answers a second."""
        return len(self.times_s) / self.wall_s

    def quantile_ms(self, share: float) -> float:
        """The time below which `share` of the answers lie."""
        return self.times_s[min(len(self.times_s) - 1, int(share * len(self.times_s)))] * 1000


def request_bytes(method: str, path: str, key: str, body: bytes = b"") -> bytes:
    """One HTTP/1.1 request with the bearer key."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def run_load(port: int, request: bytes, status: int, *, connections: int, seconds: float) -> Load:
    """Send `request` over and over on each connection; an answer is good when it has `status`."""
    parent, child = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_generate, args=(child, port, request, status, connections, seconds)
    )
    process.start()
    times, errors, wall_s = parent.recv()
    process.join()
    return Load(sorted(times), errors, wall_s)


def _generate(pipe: object, port: int, request: bytes, status: int, connections: int, seconds: float) -> None:
    times: list[float] = []
    errors = [0]
    start = time.perf_counter()
    end = start + seconds
    expected = b"HTTP/1.1 %d" % status

    def worker() -> None:
        with socket.create_connection(("127.0.0.1", port)) as conn:
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while (sent := time.perf_counter()) < end:
                conn.sendall(request)
                if _answer(conn.recv).startswith(expected):
                    times.append(time.perf_counter() - sent)
                else:
                    errors[0] += 1

    threads = [threading.Thread(target=worker) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send((times, errors[0], time.perf_counter() - start))  # type: ignore[attr-defined]


def _answer(receive: Callable[[int], bytes]) -> bytes:
    """One whole answer, by its Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += receive(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += receive(65536)
    return head
