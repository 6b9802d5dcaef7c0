"""Pictures by URL, from public addresses only.

The address is checked where the connection is made, on the very address that is connected to: a name that resolves to
another address the next time (DNS rebinding) gains nothing, and every redirect is a connection of its own.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urljoin

import httpcore

from shared.addresses import is_public, why_not_fetched
from shared.errors import InvalidInput
from shared.settings import Settings
from shared.version import VERSION

__all__ = ["Fetcher"]

MAX_REDIRECTS = 3
PIECE_S = 5.0  # longest silence
HEADERS = [("User-Agent", f"dreamqueue/{VERSION}"), ("Accept", "image/*"), ("Accept-Encoding", "identity")]


class _Refused(Exception):
    """The address is none to connect to."""


class Fetcher:
    """Thread-safe. Sends no cookies and no credentials, and takes no more than a picture may have."""

    def __init__(self, settings: Settings) -> None:
        self._hosts = settings.fetch_hosts
        hosts = frozenset(host.strip().lower() for host in settings.fetch_hosts.split(",") if host.strip())
        self._max_bytes = settings.image_max_bytes
        self._timeout_s = settings.fetch_timeout_s
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl.create_default_context(),
            max_connections=32,
            max_keepalive_connections=0,
            network_backend=_PublicOnly(hosts),
        )

    def get(self, url: str, check: Callable[[], None] = lambda: None) -> bytes:
        """The body. `check` is called between pieces, and may raise. Raises InvalidInput where the address is not
        public, the server refuses or is silent, or the picture is too large."""
        deadline = time.monotonic() + self._timeout_s
        try:
            for _ in range(MAX_REDIRECTS + 1):
                if why := why_not_fetched(url, self._hosts):
                    raise InvalidInput(why, field="url")
                found = self._get(httpcore.URL(url), deadline, check)
                if isinstance(found, bytes):
                    return found
                url = urljoin(url, found)
        except _Refused as error:
            raise InvalidInput(str(error), field="url", limit="a public address") from None
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as error:
            raise InvalidInput(f"it could not be fetched: {type(error).__name__}", field="url") from None
        except (httpcore.UnsupportedProtocol, UnicodeError, ValueError):
            raise InvalidInput("not an address that can be fetched", field="url") from None
        raise InvalidInput("it was redirected too often", field="url", limit=f"{MAX_REDIRECTS} redirects")

    def _get(self, url: httpcore.URL, deadline: float, check: Callable[[], None]) -> bytes | str:
        """The body, or where it is instead."""
        left_s = min(PIECE_S, max(0.1, deadline - time.monotonic()))
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), left_s)
        with self._pool.stream("GET", url, headers=HEADERS, extensions={"timeout": timeout}) as reply:
            headers = {name.lower(): value for name, value in reply.headers}
            if 300 <= reply.status < 400 and b"location" in headers:
                return headers[b"location"].decode("latin-1")
            if reply.status != 200:
                raise InvalidInput(f"its server answered {reply.status}", field="url")
            pieces: list[bytes] = []
            size = 0
            for piece in reply.iter_stream():
                check()
                size += len(piece)
                if size > self._max_bytes:
                    raise InvalidInput("the picture has too many bytes", field="url", limit=f"{self._max_bytes} bytes")
                if time.monotonic() > deadline:
                    raise InvalidInput("it took too long", field="url", limit=f"{self._timeout_s:g} s")
                pieces.append(piece)
            return b"".join(pieces)


class _PublicOnly(httpcore.NetworkBackend):
    """Resolves a name itself, and connects to an address that it has looked at."""

    def __init__(self, trusted: frozenset[str]) -> None:
        self._trusted = trusted
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """See httpcore. Raises _Refused unless every address of the name is public, or the host is trusted."""
        addresses = [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        if host.lower() not in self._trusted:
            for address in addresses:
                if not is_public(ipaddress.ip_address(address.partition("%")[0])):
                    raise _Refused(f"{host} is at {address}, which is not a public address")
        return self._plain.connect_tcp(addresses[0], port, timeout, local_address, socket_options)

    def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.NetworkStream:
        """Never."""
        raise _Refused("no sockets of files")

    def sleep(self, seconds: float) -> None:
        """See httpcore."""
        self._plain.sleep(seconds)
