"""TLS in front of a server that has none, and a listener that only remembers what it was sent."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import trustme

__all__ = ["Ears", "TlsProxy", "ca_file"]


def ca_file(ca: trustme.CA, folder: Path) -> Path:
    """Its certificate, for a client to trust."""
    path = folder / f"ca-{id(ca)}.pem"
    ca.cert_pem.write_to_path(str(path))
    return path


class _Listener:
    """Accepts on a free port of loopback until closed; a thread for each connection."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """No more connections."""
        self._socket.close()

    def __enter__(self) -> _Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TlsProxy(_Listener):
    """Speaks TLS with a certificate of `ca` for 127.0.0.1, and passes what it hears on to a plain port."""

    def __init__(self, ca: trustme.CA, to_port: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("127.0.0.1").configure_cert(self._context)
        self._to_port = to_port
        self.served = 0
        super().__init__()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(connection, server_side=True) as inner:
            self.served += 1
            with socket.create_connection(("127.0.0.1", self._to_port)) as server:
                threading.Thread(target=_pump, args=(server, inner), daemon=True).start()
                _pump(inner, server)


class Ears(_Listener):
    """Remembers the first bytes of each connection, and answers nothing."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        super().__init__()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self.heard.append(connection.recv(4096))


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        for chunk in _chunks(source):
            sink.sendall(chunk)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


def _chunks(source: socket.socket) -> Iterator[bytes]:
    while chunk := source.recv(65_536):
        yield chunk
