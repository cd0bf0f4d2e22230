"""How much memory a data set may take."""

from __future__ import annotations

import os
import re
from pathlib import Path

SHARE = 1 / 4  # of the memory that is free, for one split
_UNKNOWN = 8 << 30  # bytes, where the system does not say
_OF_LINUX = Path("/proc/meminfo")
_LIMITS = (  # of a container, in bytes
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def fits(size_bytes: int) -> bool:
    """Return whether a split of this size is kept in memory: it takes a quarter of what is free, or less."""
    return size_bytes <= available_bytes() * SHARE


def available_bytes() -> int:
    """Return the memory that is free for programs, at most what a container may take."""
    return min([_of_system(), *(limit for path in _LIMITS if (limit := _limit(path)))])


def _of_system() -> int:
    if _OF_LINUX.is_file():
        found = re.search(r"^MemAvailable:\s+(\d+) kB", _OF_LINUX.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return _UNKNOWN


def _limit(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
