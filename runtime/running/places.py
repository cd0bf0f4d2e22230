"""How many images a running model holds at a time."""

from __future__ import annotations

import threading
from typing import final

from dlcv.runtime.errors import InputError, ModelClosedError, QueueFullError


@final
class Places:
    """A fixed number of places. An image takes one before it is decoded and gives it back when it is answered."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = count
        self._closed = False
        self._changed = threading.Condition()

    @property
    def taken(self) -> int:
        """How many are taken now."""
        return self.count - self._free

    def take(self, count: int = 1, *, wait: bool) -> None:
        """Take some places, all or none.

        Raises:
            InputError: there are not so many.
            QueueFullError: too few are free, and `wait` is false.
            ModelClosedError: the model is closed, perhaps while this waited.
        """
        if count > self.count:
            raise InputError(
                f"{count} images at once are too many; the model holds {self.count} at a time, so send fewer"
            )
        with self._changed:
            while self._free < count and not self._closed:
                if not wait:
                    raise QueueFullError(
                        f"{self.taken} of the model's {self.count} places are taken; try again later, or wait with "
                        "submit(image)"
                    )
                self._changed.wait()
            if self._closed:
                raise ModelClosedError("the model is closed; load the bundle again")
            self._free -= count

    def give_back(self) -> None:
        """Give a place back."""
        with self._changed:
            self._free += 1
            self._changed.notify_all()  # who waits for several may not be the first in line

    def close(self) -> None:
        """Let go of all who wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
