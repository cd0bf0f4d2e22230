"""Readable names of ImageNet's 1,000 classes: "tabby cat", "great white shark", "crane (bird)"."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("imagenet_classes.txt")


@cache
def imagenet_names() -> tuple[str, ...]:
    """Return the names in the order of every network's outputs, no two alike."""
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def readable_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return readable names, if these are WordNet's of ImageNet's 1,000 classes in their order; any others as they are.

    WordNet names a class by a list, such as "tabby, tabby cat"; libraries take the list or its first name.
    """
    if len(names) != len(imagenet_names()):
        return tuple(names)
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    firsts = (info.index_to_description(i).partition(",")[0] for i in range(len(names)))
    are_same = all(
        name.lower().startswith(first.lower()) for name, first in zip(names, firsts, strict=True)
    )
    return imagenet_names() if are_same else tuple(names)
