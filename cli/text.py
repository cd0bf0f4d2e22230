"""Parses the values of options; errors name the option."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence


def terminal_width() -> int | None:
    """Return the width of the terminal on stdout in characters; None where stdout is a pipe or a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def size_from_text(text: str | None) -> tuple[int, int] | None:
    """Return (height, width) from text such as "224x224" or "224,224".

    Raises:
        InputError: the text is something else.
    """
    from dlcv.runtime.errors import InputError

    if text is None:
        return None
    height, _, width = text.lower().replace(",", "x").partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise InputError(f"--size must be height x width in pixels, such as 360x480, not {text!r}")
    return int(height), int(width)


def key_values(pairs: Sequence[str] | None, option: str) -> dict[str, str]:
    """Return a mapping from texts KEY=VALUE, as `option` takes them.

    Raises:
        InputError: a text is something else.
    """
    from dlcv.runtime.errors import InputError

    values = {}
    for text in pairs or ():
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise InputError(f"{option} takes KEY=VALUE, not {text!r}")
        values[key] = value
    return values


def numbers_from_text(text: str | None, *, option: str) -> tuple[int, ...] | None:
    """Return the numbers of a comma-separated list, each 1 or more; None without a text.

    Raises:
        InputError: the text is something else.
    """
    from dlcv.runtime.errors import InputError

    words = words_from_text(text)
    if words is None:
        return None
    if not words or not all(word.isdecimal() and int(word) for word in words):
        raise InputError(f"{option} takes numbers of 1 or more, such as 1,8,32, not {text!r}")
    return tuple(map(int, words))


def fractions_from_text(text: str, *, option: str) -> tuple[float, ...]:
    """Return numbers from a comma-separated list such as "0.485,0.456,0.406" or "1/255".

    Raises:
        InputError: the text is something else.
    """
    from fractions import Fraction

    from dlcv.runtime.errors import InputError

    try:
        return tuple(float(Fraction(word.strip())) for word in text.split(","))
    except (ValueError, ZeroDivisionError) as e:
        raise InputError(f"{option} takes numbers such as 0.5 or 1/255, not {text!r}") from e


def words_from_text(text: str | None) -> tuple[str, ...] | None:
    """Return the words of a comma-separated list; None without a text."""
    return None if text is None else tuple(w for word in text.split(",") if (w := word.strip()))
