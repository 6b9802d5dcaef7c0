"""A real IP link that loses real packets, without privileges on the host: two network namespaces, joined by two TUN
devices whose packets pass through this process.

It needs a process that may administer its own network namespace: `unshare -rn` gives that to anybody where user
namespaces are allowed (tests/faults/scenarios starts network scenarios so). Kernels often lack netem; TUN they have.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import queue
import random
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.local.processes import Command, Process

__all__ = ["NEAR", "FarSide", "Link", "Relay"]

NEAR, FAR = "10.213.77.1", "10.213.77.2"
CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
TO_FAR, TO_NEAR = "to_far", "to_near"


def _tun(name: str, own: str, peer: str) -> int:
    """A TUN device in this thread's namespace, up; its file descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    for words in (f"addr add {own} peer {peer} dev {name}", f"link set {name} up", "link set lo up"):
        subprocess.run(["ip", *words.split()], check=True)
    return descriptor


class FarSide:
    """A thread in a network namespace of its own; what it starts lives there."""

    def __init__(self) -> None:
        self._tasks: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._live, name="far side", daemon=True)
        self._thread.start()
        self.device = int(self.call(lambda: _tun("far0", FAR, NEAR)))

    def spawn(self, command: Command, log_path: Path) -> Process:
        """For Station.spawn."""
        process: Process = self.call(lambda: Process(command, log_path))
        return process

    def call(self, action: Callable[[], Any]) -> Any:
        """Run it over there, and wait for what it returns or raises."""
        answer: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()

        def task() -> None:
            try:
                answer.put((action(), None))
            except BaseException as error:
                answer.put((None, error))

        self._tasks.put(task)
        value, error = answer.get(timeout=30)
        if error:
            raise error
        return value

    def close(self) -> None:
        """End the thread; its namespace goes with its last process."""
        self._tasks.put(None)
        self._thread.join(5)
        os.close(self.device)

    def _live(self) -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        while task := self._tasks.get():
            task()


class Link:
    """The wire. Change its attributes at any time: `loss` (share, each way), `blocked` directions, `delay_s`,
    `bytes_per_s`."""

    def __init__(self, far: FarSide, seed: int) -> None:
        self.loss, self.delay_s, self.bytes_per_s = 0.0, 0.0, 0.0
        self.blocked: set[str] = set()
        self.dropped = self.passed = 0
        self._rng = random.Random(seed)
        self._near = _tun("near0", NEAR, FAR)
        self._ending = threading.Event()
        pairs = ((self._near, far.device, TO_FAR), (far.device, self._near, TO_NEAR))
        self._threads = [threading.Thread(target=self._carry, args=pair, daemon=True) for pair in pairs]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Cut for good."""
        self._ending.set()
        for thread in self._threads:
            thread.join(5)
        os.close(self._near)

    def _carry(self, source: int, target: int, direction: str) -> None:
        waiting: list[tuple[float, bytes]] = []  # in order: no packet overtakes another
        free_at = 0.0
        while not self._ending.is_set():
            timeout = max(0.0, min(0.2, waiting[0][0] - time.monotonic())) if waiting else 0.2
            if select.select([source], [], [], timeout)[0]:
                packet = os.read(source, 65_536)
                now = time.monotonic()
                if direction in self.blocked or self._rng.random() < self.loss:
                    self.dropped += 1
                else:
                    busy_s = len(packet) / self.bytes_per_s if self.bytes_per_s else 0.0
                    free_at = max(free_at, now) + busy_s
                    waiting.append((free_at + self.delay_s, packet))
            while waiting and waiting[0][0] <= time.monotonic():
                os.write(target, waiting.pop(0)[1])
                self.passed += 1


class Relay:
    """From the near end of the link to a server on loopback. `refuse()` also resets what is open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server((NEAR, 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._refusing = False
        threading.Thread(target=self._accept, daemon=True).start()

    def refuse(self) -> None:
        """Reset every connection, and all new ones."""
        self._refusing = True
        for connection in list(self._open):
            _reset(connection)

    def allow(self) -> None:
        """Back to normal."""
        self._refusing = False

    def close(self) -> None:
        """Stop listening."""
        self.refuse()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                _reset(caller)
                continue
            server = socket.create_connection(("127.0.0.1", self._port))
            for source, target in ((caller, server), (server, caller)):
                self._open.add(source)
                threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                target.sendall(data)
        except OSError:
            pass
        self._open.discard(source)
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        source.close()


def _reset(connection: socket.socket) -> None:
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    except OSError:
        return
