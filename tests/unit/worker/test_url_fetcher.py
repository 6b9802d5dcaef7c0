"""Pictures by URL: public addresses only, bounded, and no surprise on the way."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from shared.addresses import is_public
from shared.errors import Cancelled, InvalidInput
from shared.settings import Settings
from tests.support.polling import PATIENCE_S
from worker.collections import url_fetcher as fetching
from worker.collections.url_fetcher import UrlFetcher

BODY = b"picture" * 100


class Site(BaseHTTPRequestHandler):
    """/ok, /there -> /ok, /loop, /away -> another host, /large, /missing."""

    def do_GET(self) -> None:
        moved = {
            "/there": "/ok",
            "/loop": "/loop",
            "/near/by": "../ok",
            "/away": "http://169.254.169.254/latest",
            "/back": "http://127.0.0.1:22/",
            "/login": "http://me:secret@127.0.0.1/",
        }
        if self.path in moved:
            self.send_response(302)
            self.send_header("Location", moved[self.path])
            self.end_headers()
            return
        body = {"/ok": BODY, "/large": b"x" * 5_000}.get(self.path)
        self.send_response(200 if body else 404)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def trusting() -> UrlFetcher:
    return UrlFetcher(Settings(fetch_hosts="127.0.0.1", image_max_bytes=4_096, fetch_timeout_s=2))


def test_a_trusted_host_is_fetched_and_followed(site: str, trusting: UrlFetcher) -> None:
    assert trusting.get(f"{site}/ok") == BODY
    assert trusting.get(f"{site}/there") == BODY


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/loop", "redirected too often"),
        ("/away", "not a public"),
        ("/back", "port 22 is not fetched from"),
        ("/login", "user's name or password"),
        ("/large", "too many bytes"),
        ("/missing", "answered 404"),
    ],
)
def test_what_is_no_picture_of_bounded_size_is_refused(site: str, trusting: UrlFetcher, path: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        trusting.get(site + path)


def test_one_that_trickles_is_cut_off_also_in_its_headers() -> None:
    """A server that sends twenty headers a second, for ever."""
    impatient = UrlFetcher(Settings(fetch_hosts="127.0.0.1", fetch_timeout_s=0.3))
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def trickle() -> None:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                for number in itertools.count():
                    connection.sendall(b"X-%d: y\r\n" % number)
                    time.sleep(0.05)

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        with pytest.raises(InvalidInput, match="took too long"):
            impatient.get(f"http://127.0.0.1:{listening.getsockname()[1]}/")
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "it was hung up on"


def test_a_run_that_is_to_stop_stops_fetching(site: str, trusting: UrlFetcher) -> None:
    def stop() -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        trusting.get(f"{site}/ok", stop)


def test_private_addresses_are_refused_whatever_their_name(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fetcher = UrlFetcher(Settings())
    for url in (site, "http://localhost/x", "http://[::1]/", "http://[::ffff:10.0.0.1]/", "http://0.0.0.0/"):
        with pytest.raises(InvalidInput, match="not a public"):
            fetcher.get(f"{url}/ok")
    resolved = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("93.184.216.34", "10.0.0.7")]
    monkeypatch.setattr(fetching.socket, "getaddrinfo", lambda *_, **__: resolved)
    with pytest.raises(InvalidInput, match="not a public"):
        fetcher.get("http://two-faced.example/x")


@pytest.mark.parametrize("url", ["ftp://host/x", "file:///etc/passwd", "gopher://x", "http://"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        UrlFetcher(Settings()).get(url)


def test_an_address_nobody_serves_is_that_pictures_error(trusting: UrlFetcher) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(InvalidInput, match="could not be fetched"):
        trusting.get(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("8.8.8.8", True), ("10.1.2.3", False), ("169.254.169.254", False), ("127.0.0.1", False), ("100.64.0.1", False),
        ("224.0.0.1", False), ("2606:4700::1111", True), ("fe80::1%eth0", False), ("fc00::1", False),
        ("::ffff:8.8.8.8", True), ("::ffff:127.0.0.1", False), ("64:ff9b::7f00:1", False), ("2002:7f00:1::", False),
        ("64:ff9b::808:808", True), ("64:ff9b:1::a00:1", False), ("fec0::1", False), ("::7f00:1", False),
        ("::ffff:0:127.0.0.1", False), ("2002:808:808::", False),
    ],
)  # fmt: skip
def test_what_is_public(address: str, wanted: bool) -> None:
    assert is_public(ipaddress.ip_address(address.partition("%")[0])) is wanted
