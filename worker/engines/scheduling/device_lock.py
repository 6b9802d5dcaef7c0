"""Whose turn it is on the device, and when each thread last got on. No torch: who watches for hangs needs none."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["DeviceLock", "FifoLock"]


class FifoLock:
    """A lock that is handed over in the order of asking. A plain one may go back to the thread that just let it go."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._is_held = False
        self._waiting: deque[threading.Event] = deque()

    def acquire(self) -> None:
        """Wait for one's turn."""
        with self._guard:
            if not self._is_held:
                self._is_held = True
                return
            turn = threading.Event()
            self._waiting.append(turn)
        turn.wait()

    def release(self) -> None:
        """Hand over to the one who waited longest."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()  # stays held, by the next
            else:
                self._is_held = False


class DeviceLock:
    """A FifoLock that remembers, by thread id, who waits for it and who moved when."""

    def __init__(self) -> None:
        self._lock = FifoLock()
        self._waiting: set[int] = set()
        self._moved_at: dict[int, float] = {}
        self._behind: dict[int, tuple[threading.Thread, Callable[[], bool]]] = {}

    def acquire(self) -> None:
        """Wait for one's turn."""
        ident = threading.get_ident()
        self._waiting.add(ident)
        self._lock.acquire()
        self.moved()
        self._waiting.discard(ident)

    def release(self) -> None:
        """The turn is over."""
        self.moved()
        self._lock.release()

    def moved(self) -> None:
        """This thread took a step on the device."""
        self._moved_at[threading.get_ident()] = time.monotonic()

    @contextmanager
    def behind(self, driver: threading.Thread, is_on_device: Callable[[], bool]) -> Iterator[None]:
        """Inside, another thread takes this one's turns. It waits while it is not `is_on_device` of that one's
        steps."""
        ident = threading.get_ident()
        self._behind[ident] = (driver, is_on_device)
        try:
            yield
        finally:
            del self._behind[ident]

    def is_waiting(self, thread: int) -> bool:
        """Whether that thread waits for another one's turn to end, or to come onto the device."""
        behind = self._behind.get(thread)
        if behind is None:
            return thread in self._waiting
        driver, is_on_device = behind
        return not is_on_device() or driver.ident in self._waiting

    def moved_at(self, thread: int) -> float:
        """Local monotonic time of that thread's last step on the device; 0.0 before the first."""
        return self._moved_at.get(thread, 0.0)
