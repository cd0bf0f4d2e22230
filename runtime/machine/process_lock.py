"""A lock on a file that no two processes hold at once, and that dies with its process."""

from __future__ import annotations

import sys
from typing import IO, Any


def try_to_lock(file: IO[Any]) -> bool:
    """Lock an open file, and return False if somebody else who opened it holds the lock; closing it unlocks.

    Where the file system has no locks (some network file systems), nothing is locked and True is returned.
    """
    if sys.platform == "win32":
        return _try_to_lock_on_windows(file)
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # ENOLCK, ENOSYS, ENOTSUP: no locks here
        return True
    return True


def _try_to_lock_on_windows(file: IO[Any]) -> bool:
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
    return True
