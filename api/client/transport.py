"""HTTP for the client: the key, problem documents, and repeating what is safe to repeat."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import httpx

from api.client.errors import ApiError, Unreachable, api_error

__all__ = ["LONGEST_WAIT_S", "Transport"]

TRIES = 5
LONGEST_PAUSE_S = 10.0
CONNECT_TIMEOUT_S = 5.0
LONGEST_WAIT_S = 60.0  # what the server holds a long poll back at most


class Transport:
    """One connection pool. `sleep` is an argument so that tests need not wait."""

    def __init__(
        self, url: str, api_key: str | None, timeout_s: float, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.timeout_s = timeout_s
        self.http = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=self.timeout(0))
        self._sleep = sleep

    def timeout(self, wait_s: float) -> httpx.Timeout:
        """For a call the server may hold back for `wait_s`."""
        return httpx.Timeout(self.timeout_s + wait_s, connect=CONNECT_TIMEOUT_S)

    def json(self, method: str, path: str, *, wait_s: float = 0.0, safe: bool = True, **options: Any) -> Any:
        """The answer's JSON. `safe`: sending it twice does no harm, so it is tried again on 429, 503 and no answer."""
        return self.answer(method, path, wait_s=wait_s, safe=safe, **options).json()

    def answer(
        self, method: str, path: str, *, wait_s: float = 0.0, safe: bool = True, **options: Any
    ) -> httpx.Response:
        """The answer, or ApiError, or Unreachable."""
        for tries_left in reversed(range(TRIES if safe else 1)):
            try:
                answer = self.http.request(method, path, timeout=self.timeout(wait_s), **options)
            except httpx.TransportError as error:
                if not tries_left:
                    raise Unreachable(
                        f"no answer from {self.http.base_url}: {error or type(error).__name__}"
                    ) from error
                self.pause(TRIES - tries_left)
                continue
            if answer.status_code < 400:
                return answer
            if not tries_left or answer.status_code not in (429, 503):
                raise problem_of(answer)
            self.pause(TRIES - tries_left, _retry_after_s(answer))
        raise AssertionError("unreachable")

    def pause(self, nth: int, at_least_s: float = 0.0) -> None:
        """Wait before try `nth` + 1: full jitter, growing."""
        self._sleep(min(at_least_s + random.uniform(0, 0.1 * 2**nth), LONGEST_PAUSE_S))

    def close(self) -> None:
        """Close all connections."""
        self.http.close()


def problem_of(answer: httpx.Response) -> ApiError:
    """The error an answer carries."""
    try:
        return api_error(answer.status_code, answer.json())
    except ValueError:
        return api_error(answer.status_code, {})


def _retry_after_s(answer: httpx.Response) -> float:
    try:
        return float(answer.headers.get("Retry-After", "0"))
    except ValueError:
        return 0.0
