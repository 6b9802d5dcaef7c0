"""Hears of cancels and pauses at once, instead of at the next beat. Losing the connection costs speed only."""

from __future__ import annotations

import redis

from shared.settings import Settings
from shared.store import keys
from shared.store.redis import connect
from worker.run.active import ActiveRuns
from worker.threads import PeriodicThread

__all__ = ["ControlListener"]

POLL_S = 0.5  # how soon it notices that the worker stops
RETRY_S = 0.5


class ControlListener:
    """One thread on one subscription of its own."""

    def __init__(self, settings: Settings, runs: ActiveRuns) -> None:
        self._settings = settings
        self._runs = runs
        self.thread = PeriodicThread("control", RETRY_S, self._listen)

    def _listen(self) -> None:
        """Until the connection breaks or the worker stops; the thread then subscribes anew."""
        client = connect(self._settings, timeout_s=max(POLL_S * 4, self._settings.redis_timeout_s))
        try:
            with client.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
                channel.subscribe(keys.control(self._settings.worker_name))
                while self.thread.pause(0):
                    message = channel.get_message(timeout=POLL_S)
                    if message:
                        self._heard(message["data"])
        except (redis.RedisError, OSError):
            pass  # the heartbeat says what is wrong with the store; beats carry cancels meanwhile
        finally:
            client.close()

    def _heard(self, message: str) -> None:
        """A bare ref is a cancel, as ever; a word in front of it asks for something else."""
        word, _, ref = message.rpartition(" ")
        if word == "pause":
            self._runs.pause(ref)
        elif not word:
            self._runs.cancel(ref)
