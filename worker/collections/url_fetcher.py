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
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import httpcore

from shared.addresses import is_public, why_not_fetched
from shared.errors import InvalidInput
from shared.settings import Settings
from shared.version import VERSION

__all__ = ["UrlFetcher"]

MAX_REDIRECTS = 3
PIECE_S = 2.0  # longest silence: how late a run that is to stop notices
HEADERS = [("User-Agent", f"dreamqueue/{VERSION}"), ("Accept", "image/*"), ("Accept-Encoding", "identity")]


class _Refused(Exception):
    """The address is none to connect to."""


class UrlFetcher:
    """Thread-safe. Sends no cookies and no credentials, and takes no more than a picture may have."""

    def __init__(self, settings: Settings) -> None:
        self._hosts = settings.fetch_hosts
        self._max_bytes = settings.image_max_bytes
        self._timeout_s = settings.fetch_timeout_s
        self._tls = ssl.create_default_context()

    def get(self, url: str, check: Callable[[], None] = lambda: None) -> bytes:
        """The body. `check` is called at least every PIECE_S, and may raise. Raises InvalidInput where the address is
        not public, the server refuses or is too slow, or the picture is too large."""
        limits = _Limits(self._hosts, time.monotonic() + self._timeout_s, check)
        try:
            for _ in range(MAX_REDIRECTS + 1):
                if why := why_not_fetched(url, self._hosts):
                    raise InvalidInput(why, field="url")
                found = self._get(httpcore.URL(url), limits)
                if isinstance(found, bytes):
                    return found
                url = urljoin(url, found)
        except _Refused as error:
            raise InvalidInput(str(error), field="url", limit="a public address") from None
        except httpcore.TimeoutException:
            raise InvalidInput("it took too long", field="url", limit=f"{self._timeout_s:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise InvalidInput(f"it could not be fetched: {type(error).__name__}", field="url") from None
        except (httpcore.UnsupportedProtocol, UnicodeError, ValueError):
            raise InvalidInput("not an address that can be fetched", field="url") from None
        raise InvalidInput("it was redirected too often", field="url", limit=f"{MAX_REDIRECTS} redirects")

    def _get(self, url: httpcore.URL, limits: _Limits) -> bytes | str:
        """The body, or where it is instead. A connection is used once."""
        with (
            httpcore.ConnectionPool(ssl_context=self._tls, network_backend=_PublicOnly(limits)) as pool,
            pool.stream("GET", url, headers=HEADERS) as reply,
        ):
            headers = {name.lower(): value for name, value in reply.headers}
            if 300 <= reply.status < 400 and b"location" in headers:
                return headers[b"location"].decode("latin-1")
            if reply.status != 200:
                raise InvalidInput(f"its server answered {reply.status}", field="url")
            pieces: list[bytes] = []
            size = 0
            for piece in reply.iter_stream():
                size += len(piece)
                if size > self._max_bytes:
                    raise InvalidInput("the picture has too many bytes", field="url", limit=f"{self._max_bytes} bytes")
                pieces.append(piece)
            return b"".join(pieces)


@dataclass(frozen=True)
class _Limits:
    """Of one picture, redirects included."""

    hosts: str  # whose addresses may be private
    deadline: float  # local monotonic time
    check: Callable[[], None]

    @property
    def left_s(self) -> float:
        """For the next piece. Raises httpcore.ReadTimeout, and what stops the run."""
        self.check()
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise httpcore.ReadTimeout
        return min(PIECE_S, left_s)


class _PublicOnly(httpcore.NetworkBackend):
    """Resolves a name itself, and connects to an address that it has looked at."""

    def __init__(self, limits: _Limits) -> None:
        self._limits = limits
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 (httpcore's signature; the limits say it)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """To the address that was checked, so that a second look-up cannot lead elsewhere. Raises _Refused unless every
        address of the name is public, or the host is trusted."""
        addresses = [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        if host.lower() not in {name.strip().lower() for name in self._limits.hosts.split(",")}:
            for address in addresses:
                if not is_public(ipaddress.ip_address(address.partition("%")[0])):
                    raise _Refused("its address is not a public one")
        return _Timed(
            self._plain.connect_tcp(addresses[0], port, self._limits.left_s, local_address, socket_options),
            self._limits,
        )

    def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.NetworkStream:
        """Never."""
        raise _Refused("no sockets of files")

    def sleep(self, seconds: float) -> None:
        """As it is asked."""
        self._plain.sleep(seconds)


class _Timed(httpcore.NetworkStream):
    """A connection whose every read and write ends in time, headers included: one that trickles is cut off, too."""

    def __init__(self, plain: httpcore.NetworkStream, limits: _Limits) -> None:
        self._plain = plain
        self._limits = limits

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        """In the time that is left."""
        return self._plain.read(max_bytes, self._limits.left_s)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        """In the time that is left."""
        self._plain.write(buffer, self._limits.left_s)

    def close(self) -> None:
        """At once."""
        self._plain.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        """Encrypted, and timed as before."""
        return _Timed(self._plain.start_tls(ssl_context, server_hostname, self._limits.left_s), self._limits)

    def get_extra_info(self, info: str) -> Any:
        """What the plain connection knows."""
        return self._plain.get_extra_info(info)
