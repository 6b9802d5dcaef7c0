"""The host's memory, as a process in a container may use it. Linux tells; elsewhere the whole machine's is taken."""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path

__all__ = ["available_bytes", "peak_bytes", "resident_bytes"]

MEMINFO = Path("/proc/meminfo")
STATM = Path("/proc/self/statm")
CGROUP = Path("/sys/fs/cgroup")  # version 2
PAGE = os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int:
    """What may be allocated without swapping: of the machine, or of this container if that is less."""
    return min(_of_machine(), _of_container())


def resident_bytes() -> int:
    """What this process holds now."""
    try:
        return int(STATM.read_text().split()[1]) * PAGE
    except OSError:
        return peak_bytes()


def peak_bytes() -> int:
    """The most that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _of_machine() -> int:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", MEMINFO.read_text(), re.M)
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else os.sysconf("SC_PHYS_PAGES") * PAGE


def _of_container() -> int:
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return _of_machine()
    return _of_machine() if limit == "max" else max(0, int(limit) - int(used))
