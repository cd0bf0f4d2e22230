"""An image as it is given to dlcv, and an image that was refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from dlcv.runtime.errors import InputError

UInt8: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
Source: TypeAlias = "str | Path | bytes | Image.Image | np.ndarray[Any, Any]"
"""A path or URL, the bytes of a file, a PIL image, or a uint8 array (H, W, 3) RGB or (H, W)."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """An image that could not be read, and why, in one sentence."""

    source: Source
    reason: str

    @property
    def name(self) -> str:
        """The source as text."""
        return name_of(self.source)

    def record(self) -> dict[str, Any]:
        """Return what goes into a line of `errors.jsonl`."""
        return {"image": self.name, "reason": self.reason}


def name_of(source: Source) -> str:
    """Return a source as text: paths and URLs as they are, other objects by their kind."""
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>"
    if isinstance(source, np.ndarray):
        return f"<array {source.shape}>"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or f"<image {source.size}>")
    return str(source)


def source_of(name: str, read: Callable[[], Source]) -> Source | Refused:
    """Read an image; what an archive or a contact sheet cannot give is refused, not an end of the run."""
    try:
        return read()
    except (InputError, OSError) as e:
        return Refused(source=name, reason=str(e))
