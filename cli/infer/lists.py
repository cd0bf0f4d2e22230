"""Lists in options: `--batches 1,8,32`."""

from __future__ import annotations


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


def words_from_text(text: str | None) -> tuple[str, ...] | None:
    """Return the words of a comma-separated list; None without a text."""
    return None if text is None else tuple(w for word in text.split(",") if (w := word.strip()))
