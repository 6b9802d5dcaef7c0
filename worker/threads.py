"""A thread that does one thing again and again, and outlives whatever that thing raises."""

from __future__ import annotations

import threading
from collections.abc import Callable

from shared.errors import Unavailable
from shared.logs import get_logger

__all__ = ["PeriodicThread"]

log = get_logger(__name__)


class PeriodicThread:
    """Calls `action` every `period_s` until stopped. An outage is logged once when it begins and once when it ends."""

    def __init__(self, name: str, period_s: float, action: Callable[[], None]) -> None:
        self.name = name
        self.period_s = period_s
        self._action = action
        self._failing = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Begin; the first call comes at once."""
        self._thread.start()

    def stop(self) -> None:
        """End after the call in progress; join() waits for that."""
        self._stopped.set()

    def join(self, timeout_s: float) -> None:
        """Wait until it has ended."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def pause(self, seconds: float) -> bool:
        """For actions that wait inside: sleeps, and says whether to go on."""
        return not self._stopped.wait(seconds)

    def _loop(self) -> None:
        while not self._stopped.is_set():
            self.once()
            self._stopped.wait(self.period_s)

    def once(self) -> bool:
        """One call; whether it went well."""
        try:
            self._action()
        except Unavailable as error:
            if not self._failing:
                log.warning("interrupted", thread=self.name, error=error.message)
            self._failing = True
            return False
        except Exception:
            log.exception("failed", thread=self.name)
            return False
        if self._failing:
            log.info("resumed", thread=self.name)
        self._failing = False
        return True
