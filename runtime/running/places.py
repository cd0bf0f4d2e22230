"""How many images a running model holds at a time."""

from __future__ import annotations

import threading
from typing import final

from dlcv.runtime.errors import ModelClosedError, QueueFullError


@final
class Places:
    """A fixed number of places. An image takes one before it is decoded and gives it back when it is answered."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = count
        self._closed = False
        self._changed = threading.Condition()

    def take(self, *, wait: bool) -> None:
        """Take a place.

        Raises:
            QueueFullError: all are taken, and `wait` is false.
            ModelClosedError: the model is closed, perhaps while this waited.
        """
        with self._changed:
            while not self._free and not self._closed:
                if not wait:
                    raise QueueFullError(
                        f"all {self.count} places of the model are taken; try again later, or wait with submit(image)"
                    )
                self._changed.wait()
            if self._closed:
                raise ModelClosedError("the model is closed; load the bundle again")
            self._free -= 1

    def give_back(self) -> None:
        """Give a place back."""
        with self._changed:
            self._free += 1
            self._changed.notify()

    def close(self) -> None:
        """Let go of all who wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
