"""CPU work off the event loop: under gevent one greenlet that computes stops all the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import gevent
from gevent import monkey

__all__ = ["offloaded"]

P = ParamSpec("P")
R = TypeVar("R")


def offloaded(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run `work` in a real thread where gevent serves this process, else right here."""
    if monkey.is_module_patched("threading"):
        return cast(R, gevent.get_hub().threadpool.apply(work, args, kwargs))
    return work(*args, **kwargs)
