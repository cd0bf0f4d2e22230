"""What must be closed is closed by `with`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """Base of what holds a resource: `with` closes it at the end, also after an error."""

    @abstractmethod
    def close(self) -> None:
        """Free the resource. Closing twice is allowed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
